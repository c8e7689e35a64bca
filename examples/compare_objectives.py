"""Trains a small model by several objectives on drawn scenes, and prints what each of them learned as a table.

    python examples/compare_objectives.py
    python examples/compare_objectives.py --objectives stellar stellar-without-mask --steps 400

Every objective gets the same network, scenes, seed and number of steps. The untrained network is the first row. All are
measured on scenes that training never sees: kNN names the largest object of a scene, each object is compared with the
token whose places fit it best, and scenes are decoded. `OBJECTIVES`, at the top of this file, says which recipe and
which settings make an objective; add a row for your own. The defaults take some minutes for each objective on a CPU.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stellar_hub import StellarConfig, StellarModel
from stellar_hub.data.scenes import SCENE_CLASSES, draw_scene
from stellar_hub.evaluation import knn_accuracy
from stellar_hub.measures import argmax_regions, best_iou, image_psnr, to_pixels
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import track
from stellar_hub.training.monitoring import read_journal
from stellar_hub.training.recipes import Recipe, load_recipe
from stellar_hub.training.train import train

# On cls and patches, with masks as published; sparse tokens get no loss, and nothing is reconstructed.
SOP_ALONE = (
    *("token_objective=sop_patches", "reconstruction_weight=0", "koleo_weight=0"),
    *("mask_ratio=0.3", "mask_strategy=uniform"),
)
# Name of an objective: the recipe, and what is set in it.
OBJECTIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "stellar": ("stellar-tiny", ()),
    "stellar-without-mask": ("stellar-tiny", ("mask_ratio=null",)),
    "stellar-with-sop": ("sop-tiny", ()),
    "sop-alone": ("sop-tiny", SOP_ALONE),
}
UNTRAINED = "untrained"
FIRST_SEED = {"train": 0, "bank": 1_000_000, "test": 2_000_000}  # those of `benchmarks/evaluate_stellar_tiny.py`
MAX_OBJECTS = 3
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
BATCH_SIZE = 100  # of scenes that are encoded together


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes: pixels `(N, 3, size, size)` uint8, class of the largest object `(N,)`, masks of all objects."""

    pixels: Tensor
    labels: Tensor
    masks: list[Tensor]


@dataclass(frozen=True)
class Result:
    """What a model knows: accuracies in [0, 1] of `num_scenes` scenes, IoU in [0, 1], PSNR in dB, seconds per step."""

    name: str
    pooled: float
    cls: float
    iou: float
    psnr: float | None
    seconds: float | None
    num_scenes: int


def draw_scenes(split: str, count: int, size: int) -> Scenes:
    """Draws the scenes of a split."""
    pixels, labels, masks = [], [], []
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + count)
    for seed in track(seeds, f"drawing scenes, {split}", unit="scene"):
        scene = draw_scene(seed, size, MAX_OBJECTS, class_cue="color")
        pixels.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        labels.append(SCENE_CLASSES.index(scene.classes[scene.masks.sum(axis=(1, 2)).argmax()]))
        masks.append(torch.from_numpy(scene.masks))
    return Scenes(torch.stack(pixels), torch.tensor(labels), masks)


def write_images(folder: Path, pixels: Tensor) -> Path:
    """Writes scenes as PNG files for the trainer, and returns the folder."""
    folder.mkdir()
    for index, image in enumerate(track(pixels, "writing scenes", unit="scene")):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:06d}.png", compress_level=1)
    return folder


def recipe_of(objective: str, images: Path, steps: int, seed: int, settings: Sequence[str]) -> Recipe:
    """Returns the recipe of an objective: its own settings, then those that all share.

    Raises:
        ValueError: if a setting is wrong, or settings exclude each other.
    """
    name, own = OBJECTIVES[objective]
    shared = (f"data.sources=[{images}]", "repeats=[]", f"steps={steps}", f"seed={seed}")
    course = ("log_every=1", f"save_every={steps}", "keep_checkpoints=1", "preview_every=0", "export_every=0")
    return load_recipe(name, [*own, *shared, *course, *settings])


def train_and_measure(objective: str, recipe: Recipe, folder: Path, cpu: bool, bank: Scenes, test: Scenes) -> Result:
    """Trains by an objective, and measures the model."""
    model = StellarModel.from_pretrained(train(recipe, folder, cpu=cpu))
    speeds = [record["images_per_second"] for record in read_journal(folder / "metrics.jsonl")]
    batch_size = recipe.optimization.batch_size * recipe.optimization.gradient_accumulation_steps
    return measure(objective, model, bank, test, batch_size / statistics.median(speeds))


@torch.inference_mode()
def measure(name: str, model: StellarModel, bank: Scenes, test: Scenes, seconds: float | None = None) -> Result:
    """Measures a model.

    Args:
        name: Name in the table.
        model: The model.
        bank: Scenes among which kNN looks.
        test: Scenes to measure on.
        seconds: Seconds per step of its training; None for an untrained one.
    """
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    known, asked = (vectors_of(model, scenes, name) for scenes in (bank, test))
    accuracies = []
    for queries, features in zip(asked, known, strict=True):
        center = features.mean(dim=0)
        pair = queries - center, test.labels, features - center, bank.labels
        accuracies.append(knn_accuracy(*pair, NUM_NEIGHBOURS, TEMPERATURE))
    ious, decibels = [], []
    for pixels, masks in zip(batches(test.pixels), batches(test.masks), strict=True):
        output = model(pixels.to(model.device), output_reconstruction=model.can_decode)
        for maps, mask in zip(output.localization.float().cpu(), masks, strict=True):
            regions = to_pixels(argmax_regions(maps, model.grid_size(*mask.shape[1:])), *mask.shape[1:])
            ious.append(best_iou(regions, mask))
        if output.reconstruction is not None:
            decibels.append(image_psnr(output.reconstruction.float().cpu(), pixels / 255))
    psnr = torch.cat(decibels).mean().item() if decibels else None
    return Result(name, *accuracies, torch.cat(ious).mean().item(), psnr, seconds, len(test.labels))


def vectors_of(model: StellarModel, scenes: Scenes, name: str) -> tuple[Tensor, Tensor]:
    """Returns pooled tokens and cls of scenes, `(N, d)` each."""
    pooled, cls = [], []
    progress = track(batches(scenes.pixels), f"encoding, {name}", math.ceil(len(scenes.pixels) / BATCH_SIZE), "batch")
    for pixels in progress:
        output = model(pixels.to(model.device))
        pooled.append(output.pooler_output.float().cpu())
        cls.append(output.cls_token.float().cpu())
    return torch.cat(pooled), torch.cat(cls)


def batches(items: Sequence) -> Iterator:
    """Yields items in groups of `BATCH_SIZE`."""
    return (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))


def standard_error(share: float, count: int) -> float:
    """Returns the standard error of a share of `count` independent answers (binomial)."""
    return math.sqrt(share * (1 - share) / count)


def table(results: Sequence[Result], failed: Sequence[tuple[str, str]] = ()) -> str:
    """Returns the results as a Markdown table; the first one is the untrained network, with which others are compared.

    Args:
        results: Results.
        failed: Objectives that could not be trained, and why.
    """
    head = ("objective", "kNN, %", "gain", "kNN of cls, %", "gain", "IoU, %", "PSNR, dB", "s per step")
    rows = [head, ("---", *["--:"] * (len(head) - 1))]
    for each in results:
        shown: list[str] = [each.name]
        for share, before in ((each.pooled, results[0].pooled), (each.cls, results[0].cls)):
            errors = [standard_error(value, each.num_scenes) for value in (share, before)]
            gain = "" if each is results[0] else f"{(share - before) / max(math.hypot(*errors), 1e-9):+.1f}"
            shown += [f"{100 * share:.1f} ± {100 * errors[0]:.1f}", gain]
        shown += [f"{100 * each.iou:.1f}", "" if each.psnr is None else f"{each.psnr:.1f}"]
        rows.append((*shown, "" if each.seconds is None else f"{each.seconds:.2f}"))
    rows += [(name, f"failed: {reason}", *[""] * (len(head) - 2)) for name, reason in failed]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def compare(args: argparse.Namespace, folder: Path) -> str:
    """Trains and measures all objectives in a folder, and returns the table."""
    images = folder / "scenes"
    recipes = {
        name: recipe_of(name, images, args.steps, args.seed, args.settings) for name in dict.fromkeys(args.objectives)
    }
    config = next(iter(recipes.values())).model.config
    size = config["image_size"]
    write_images(images, draw_scenes("train", args.scenes_train, size).pixels)
    bank, test = draw_scenes("bank", args.scenes_bank, size), draw_scenes("test", args.scenes_test, size)
    torch.manual_seed(args.seed)
    results, failed = [measure(UNTRAINED, StellarModel(StellarConfig(**config)), bank, test)], []
    for name, recipe in track(recipes.items(), "objectives", len(recipes), "objective"):
        try:
            results.append(train_and_measure(name, recipe, folder / name, args.cpu, bank, test))
        except (ImportError, RuntimeError) as error:  # an extra is missing, a loss is not finite: others go on
            failed.append((name, one_line(str(error), 200)))
    return table(results, failed)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = list(OBJECTIVES)
    add(
        "--objectives",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"objectives to train, of {', '.join(names)} (default: all)",
    )
    add("--steps", type=int, default=200, help="optimizer steps of each objective (default: %(default)s)")
    add("--scenes-train", type=int, default=2000, help="scenes to train on (default: %(default)s)")
    add("--scenes-bank", type=int, default=1000, help="scenes among which kNN looks (default: %(default)s)")
    add("--scenes-test", type=int, default=1000, help="scenes to measure on (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of weights, order and views (default: %(default)s)")
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of all recipes, such as optimization.batch_size=64; repeat it to change more",
    )
    add("--output", type=Path, help="folder to keep the runs in, which must not exist (default: nothing is kept)")
    add("--cpu", action="store_true", help="train on the CPU even if there is a GPU")
    args = parser.parse_args()
    most = FIRST_SEED["bank"]
    for name, least in (("steps", 1), ("scenes_train", 1), ("scenes_bank", NUM_NEIGHBOURS), ("scenes_test", 1)):
        count = getattr(args, name)
        if not least <= count <= most:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} must be at least {least} and at most {most}, got {count}")
    return args


def main() -> None:
    """Compares, and prints the table with a line that explains it."""
    args = parse_arguments()
    try:
        if args.output is not None:
            args.output.mkdir(parents=True)
            text = compare(args, args.output)
        else:
            with tempfile.TemporaryDirectory() as folder:
                text = compare(args, Path(folder))
    except (OSError, ValueError) as error:
        raise SystemExit(f"compare_objectives: {error}") from error
    print(f"{text}\n")
    print(
        f"{args.steps} steps each. kNN (k = {NUM_NEIGHBOURS}) names the largest object, one of {len(SCENE_CLASSES)} "
        f"classes, of {args.scenes_test} scenes from {args.scenes_bank} others; ± is the standard error, and a gain is "
        "above the untrained network, in standard errors of the difference. IoU of each object with its best token."
    )


if __name__ == "__main__":
    main()
