"""Measures what the tokens of stellar-tiny know, with the protocols of `stellar_hub.evaluation`, and updates its card.

    pip install -e '.[eval]'
    python benchmarks/evaluate_stellar_tiny.py --update-card stellar_hub/checkpoints/stellar-tiny/README.md

Nothing is trained. The data are drawn scenes with seeds that training never draws: kNN names the largest object, each
object is compared with its best token, and scenes and photographs are reconstructed. The same network with random
weights and simple baselines are in the tables too. `--check` exits with 1 unless kNN of the pooled tokens is at least
10 points better than that of the random network.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from PIL import Image
from scene_baselines import color_histograms, cropped_masks, fit_colors
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.scenes import SCENE_CLASSES, ClassCue, draw_scene
from stellar_hub.data.sources import EncodedImage, open_source
from stellar_hub.evaluation import (
    KnnProtocol,
    Measurement,
    ReconstructionProtocol,
    Report,
    RunSettings,
    evaluate_knn,
    evaluate_reconstruction,
    knn_accuracy,
    load_metric_networks,
    prepare_splits,
)
from stellar_hub.evaluation.cached_features import all_features
from stellar_hub.evaluation.report import markdown_table
from stellar_hub.evaluation.segmenters import cluster_regions
from stellar_hub.features.backbones import Backbone, open_backbone
from stellar_hub.features.backbones.backbone import preprocessing_of, square_processor
from stellar_hub.measures import argmax_regions, best_iou, best_patches_iou, threshold_regions, to_pixels
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import read_section, write_section
from stellar_hub.progress import track

FIRST_SEED = {"train": 1_000_000, "test": 2_000_000}  # `examples/draw_scenes.py` draws seeds below
PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "images"
SECTION = "evaluation"  # of the card
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
NUM_COLORS = 16
NUM_CLUSTERS = 16  # as many as stellar-tiny has tokens
MAX_OBJECTS = 3
BATCH_SIZE = 100
MIN_GAIN = 10.0  # points of kNN accuracy
CLUES = {"outline": "by outline alone", "texture": "by outline and texture", "color": "by outline, texture and hue"}


class Scenes(NamedTuple):
    """Drawn scenes with the class of the largest object and the masks of all objects."""

    labelled: LabelledImages
    pixels: Tensor  # (N, 3, size, size), uint8
    masks: list[Tensor]  # N times (num_objects, size, size), bool


def draw_scenes(split: str, count: int, size: int, class_cue: ClassCue) -> Scenes:
    """Draws the scenes of a split."""
    files, labels, pixels, masks = [], [], [], []
    first = FIRST_SEED[split]
    for seed in track(range(first, first + count), f"drawing {split} scenes", unit="scene"):
        scene = draw_scene(seed, size, MAX_OBJECTS, class_cue=class_cue)
        buffer = io.BytesIO()
        Image.fromarray(scene.image).save(buffer, format="PNG")
        files.append(EncodedImage(f"{seed}.png", buffer.getvalue()))
        labels.append(SCENE_CLASSES.index(scene.classes[scene.masks.sum(axis=(1, 2)).argmax()]))
        pixels.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        masks.append(torch.from_numpy(scene.masks))
    return Scenes(
        LabelledImages(f"scenes, {split}", files, tuple(labels), tuple(SCENE_CLASSES)), torch.stack(pixels), masks
    )


def show_whole_scenes(backbone: Backbone, size: int) -> Backbone:
    """Makes a model see scenes as they are: its own preprocessing would enlarge them and crop the centre."""
    backbone.processor = square_processor(size, size, backbone.processor.patch_size)
    backbone.facts = replace(backbone.facts, preprocessing=preprocessing_of(backbone.processor))
    return backbone


def recognition(backbones: Sequence[Backbone], train: Scenes, test: Scenes, run: RunSettings) -> Report:
    """Names the largest object by kNN: of the models, and of baselines without a network."""
    protocol = KnnProtocol((NUM_NEIGHBOURS,), TEMPERATURE, ("pooled", "cls", "patches_mean"), center=True)
    report = evaluate_knn(backbones, prepare_splits(train.labelled, test.labelled, run), protocol, run)
    colors = fit_colors(train.pixels, NUM_COLORS)
    baselines = {
        f"histogram of {NUM_COLORS} k-means colours": [color_histograms(each.pixels, colors) for each in (train, test)],
        "control: the object's true mask, cropped": [cropped_masks(each.masks) for each in (train, test)],
    }
    (metric,) = report.measurements[0].metrics
    rows = [Measurement(name, "", {metric: classify(*each, train, test)}) for name, each in baselines.items()]
    report.measurements[-1:-1] = rows  # the most frequent class stays last
    return report


def classify(bank: Tensor, queries: Tensor, train: Scenes, test: Scenes) -> float:
    """Returns the kNN accuracy of centred features in percent."""
    labels = [torch.tensor(each.labelled.labels) for each in (train, test)]
    center = bank.mean(dim=0)
    return 100 * knn_accuracy(queries - center, labels[1], bank - center, labels[0], NUM_NEIGHBOURS, TEMPERATURE)


def objects(backbones: Sequence[Backbone], pixels: Backbone, test: Scenes, run: RunSettings) -> Report:
    """Compares each object with its best token; or with clusters of patches, the whole image, and a bound."""
    rows = []
    for backbone in backbones:
        maps = all_features(backbone, test.labelled.images, ("L",), run)["L"]
        grid = backbone.grid_size()
        owned = mean_best_iou([argmax_regions(each, grid) for each in maps], test.masks)
        high = mean_best_iou([threshold_regions(each, grid) for each in maps], test.masks)
        rows.append(object_row(backbone.name, "tokens", owned, high))
    patches = all_features(pixels, test.labelled.images, ("patches",), run)["patches"]  # (N, n, 3 * p * p)
    for label, values in (("mean colours", patches.unflatten(2, (3, -1)).mean(dim=-1)), ("pixels", patches)):
        progress = track(values, f"k-means, {label}", unit="scene")
        clusters = [cluster_regions(each, pixels.grid_size(), NUM_CLUSTERS, 0) for each in progress]
        rows.append(object_row(f"k-means of the patches' {label}", "", mean_best_iou(clusters, test.masks)))
    grid = backbones[0].grid_size()
    whole = [torch.ones(1, *grid, dtype=torch.bool)] * len(test.masks)
    rows.append(object_row("the whole image", "", mean_best_iou(whole, test.masks)))
    bound = torch.cat([best_patches_iou(mask, grid) for mask in test.masks]).mean().item()
    rows.append(object_row("bound: the best union of patches", "", 100 * bound))
    facts = {"num_objects": sum(len(mask) for mask in test.masks)}
    return Report("objects", {"num_clusters": NUM_CLUSTERS}, facts, [], rows)


def object_row(model: str, features: str, owned: float, high: float | None = None) -> Measurement:
    """Returns a row of the table of objects."""
    return Measurement(model, features, {"IoU, %": owned, "half of maximum, %": high})


def mean_best_iou(regions: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Returns the mean over all objects of the IoU with the region that fits best, in percent."""
    pairs = zip(regions, masks, strict=True)
    return 100 * torch.cat([best_iou(to_pixels(each, *mask.shape[1:]), mask) for each, mask in pairs]).mean().item()


def reconstruction(
    open_models: Callable[[], list[Backbone]], size: int, test: Scenes, photographs: Path, run: RunSettings
) -> Report:
    """Reconstructs scenes, and photographs with the model's own preprocessing."""
    protocol = ReconstructionProtocol(("psnr",))
    networks = load_metric_networks(protocol.metrics)
    whole = [show_whole_scenes(each, size) for each in open_models()]
    scenes = evaluate_reconstruction(whole, test.labelled.images, "scenes, test", protocol, networks, run)
    source = open_source(str(photographs))
    others = evaluate_reconstruction(open_models(), source, "photographs", protocol, networks, run)
    rows = [
        Measurement(
            row.model, "", {"scenes, dB": row.metrics["PSNR, dB"], "photographs, dB": other.metrics["PSNR, dB"]}
        )
        for row, other in zip(scenes.measurements, others.measurements, strict=True)
    ]
    return replace(scenes, measurements=rows, images={}, data={"scenes": scenes.data, "photographs": others.data})


def evaluate(args: argparse.Namespace) -> dict[str, Report]:
    """Measures everything and writes nothing."""
    run = RunSettings(batch_size=BATCH_SIZE)

    def open_models() -> list[Backbone]:
        return [open_backbone(name) for name in (args.model, f"{args.model}:random")]

    models, pixels = open_models(), open_backbone("pixels")
    size = models[0].processor.crop_size["height"]
    for each in (*models, pixels):
        show_whole_scenes(each, size)
    train = draw_scenes("train", args.scenes_train, size, args.class_cue)
    test = draw_scenes("test", args.scenes_test, size, args.class_cue)
    return {
        "recognition": recognition((*models, pixels), train, test, run),
        "objects": objects(models, pixels, test, run),
        "reconstruction": reconstruction(open_models, size, test, args.images, run),
    }


def gain(reports: dict[str, Report]) -> float:
    """Returns how many points of kNN accuracy training gave the pooled tokens."""
    trained, untrained = (
        value
        for row in reports["recognition"].measurements
        if row.features == "pooled"
        for value in row.metrics.values()
    )
    assert trained is not None
    assert untrained is not None
    return trained - untrained


def markdown(reports: dict[str, Report], args: argparse.Namespace) -> str:
    """Returns three tables with a paragraph before each."""
    error = 50 / args.scenes_test**0.5  # of a share of one half, where it is largest
    return f"""\
**Recognition.** Which of {len(SCENE_CLASSES)} classes ({CLUES[args.class_cue]}) is the largest object of a drawn scene
with at most {MAX_OBJECTS} objects? kNN (k = {NUM_NEIGHBOURS}, cosine of centred features, temperature {TEMPERATURE})
from {args.scenes_train} scenes to {args.scenes_test} others; standard error at most {error:.1f} points.

{markdown_table(reports["recognition"])}

**Objects.** IoU of each object's mask with its best token, mean of {reports["objects"].data["num_objects"]} objects. A
token owns the patches where its `L` is the largest; in the second column it has those where `L` reaches half of the
token's maximum. k-means has {NUM_CLUSTERS} clusters.

{markdown_table(reports["objects"])}

**Reconstruction.** PSNR, mean of the {args.scenes_test} scenes and of the photographs of `examples/images`.

{markdown_table(reports["reconstruction"])}"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line, and refuses before any work what would fail at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder of the model (default: %(default)s)")
    parser.add_argument("--scenes-train", type=int, default=4000, help="scenes to learn from (default: %(default)s)")
    parser.add_argument("--scenes-test", type=int, default=1000, help="scenes to measure on (default: %(default)s)")
    parser.add_argument(
        "--class-cue",
        default="color",
        choices=get_args(ClassCue),
        help="what the objects of a class share: outline; texture too; hue too (color, the default, as in training)",
    )
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of photographs")
    parser.add_argument("--json", type=Path, help="file to write the reports to")
    parser.add_argument("--update-card", type=Path, help="model card to write the tables into")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below a gain of {MIN_GAIN:.0f} points")
    args = parser.parse_args()
    most = FIRST_SEED["test"] - FIRST_SEED["train"]
    if not NUM_NEIGHBOURS <= args.scenes_train <= most or args.scenes_test < 1:
        parser.error(
            f"--scenes-train must be between {NUM_NEIGHBOURS} and {most}, and --scenes-test at least 1, "
            f"got {args.scenes_train} and {args.scenes_test}"
        )
    try:
        open_source(str(args.images))
        if args.json and not args.json.parent.is_dir():
            raise FileNotFoundError(f"--json {args.json}: the folder does not exist")
        if args.update_card:
            read_section(args.update_card.read_text(encoding="utf-8"), SECTION, args.update_card)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args


def main() -> int:
    """Runs the evaluation; returns the exit code."""
    args = parse_arguments()
    reports = evaluate(args)
    text = markdown(reports, args)
    print(text)
    if args.json:
        fields = {name: report.as_dict() for name, report in reports.items()}
        write_atomically(args.json, (json.dumps(fields, indent=2) + "\n").encode())
    if args.update_card:
        card = args.update_card.read_text(encoding="utf-8")
        write_atomically(args.update_card, write_section(card, SECTION, text, args.update_card).encode())
    if not args.check:
        return 0
    passed = gain(reports) >= MIN_GAIN
    print(f"\ncheck {'passed' if passed else 'failed'}: training gave {gain(reports):.1f} points of {MIN_GAIN:.0f}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
