"""What the tokens of stellar-tiny know: kNN on drawn scenes, overlap of tokens with objects, and reconstruction.

    pip install -e '.[test]'
    python benchmarks/evaluate_stellar_tiny.py --update-card stellar_hub/checkpoints/stellar-tiny/README.md

Nothing is trained here, and the scenes are of seeds that training never draws. The same network with random weights
and simple baselines stand beside the model. `--check` exits with 1 unless the mean of S knows the class of the largest
object better than that of the untrained network does, by 10 points of kNN accuracy.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from evaluation_report import IouRow, KnnRow, PsnrRow, Report, as_json, markdown, replace_section
from reconstruct_unseen_photographs import PHOTOGRAPHS, means
from reconstruct_unseen_photographs import measure as measure_photographs
from scene_baselines import color_histograms, cropped_masks, fit_colors, patch_regions, raw_pixels
from torch import Tensor
from tqdm import tqdm

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data.scenes.scene import SCENE_CLASSES, ClassCue, draw_scene
from stellar_hub.evaluation.nearest_neighbours import knn_accuracy
from stellar_hub.measures import argmax_regions, best_iou, best_patches_iou, psnr, threshold_regions, to_pixels
from stellar_hub.modeling.atomic_write import write_atomically

FIRST_TRAIN_SEED = 1_000_000  # `examples/draw_scenes.py` stays below
FIRST_TEST_SEED = 2_000_000
UNTRAINED_SEED = 0
NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07
NUM_COLORS = 16
BATCH_SIZE = 100
MIN_KNN_GAIN = 10.0


class Scenes(NamedTuple):
    """Drawn images, what they show most of, and where their objects are."""

    images: Tensor  # (N, 3, size, size), uint8
    labels: Tensor  # (N,), index into SCENE_CLASSES of the object with the largest visible mask
    masks: list[Tensor]  # N times (num_objects, size, size), bool


def draw_scenes(first_seed: int, count: int, args: argparse.Namespace, name: str) -> Scenes:
    """The scenes of `count` seeds from the first."""
    images, labels, masks = [], [], []
    for seed in tqdm(range(first_seed, first_seed + count), desc=f"drawing {name} scenes", unit="scene"):
        scene = draw_scene(seed, args.size, args.max_objects, class_cue=args.class_cue)
        largest = scene.masks.sum(axis=(1, 2)).argmax()
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        labels.append(SCENE_CLASSES.index(scene.classes[largest]))
        masks.append(torch.from_numpy(scene.masks))
    return Scenes(torch.stack(images), torch.tensor(labels), masks)


def untrained_twin(model: StellarModel) -> StellarModel:
    """The same architecture with random weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return StellarModel(model.config).eval()


def pooled_features(model: StellarModel, images: Tensor, name: str) -> dict[str, Tensor]:
    """One vector per image and way of pooling, each `(N, d)`."""
    pooled: dict[str, list[Tensor]] = {"mean of S": [], "cls": [], "mean of patches": []}
    for batch in tqdm(images.split(BATCH_SIZE), desc=f"encoding, {name}", unit="batch"):
        with torch.inference_mode():
            output = model(batch)
        pooled["mean of S"].append(output.pooler_output)
        pooled["cls"].append(output.cls_token)
        pooled["mean of patches"].append(output.patch_features.mean(dim=1))
    return {name: torch.cat(parts) for name, parts in pooled.items()}


def classify(train_features: Tensor, test_features: Tensor, train: Scenes, test: Scenes) -> float:
    """KNN accuracy in percent, after taking the mean of the train part off: else all cosines may be nearly 1."""
    center = train_features.mean(dim=0)
    bank, queries = train_features - center, test_features - center
    return 100 * knn_accuracy(queries, test.labels, bank, train.labels, NUM_NEIGHBOURS, TEMPERATURE)


def measure_knn(networks: dict[str, StellarModel], train: Scenes, test: Scenes) -> list[KnnRow]:
    """Accuracy of networks and baselines at naming the largest object."""
    both = torch.cat([train.images, test.images])
    features = {
        f"{name}: {pooling}": pooled
        for name, model in networks.items()
        for pooling, pooled in pooled_features(model, both, name).items()
    }
    features["raw pixels, averaged to 16 x 16"] = raw_pixels(both)
    features[f"histogram of {NUM_COLORS} k-means colours"] = color_histograms(
        both, fit_colors(train.images, NUM_COLORS)
    )
    features["control: the object's true mask, cropped"] = cropped_masks(train.masks + test.masks)
    split = len(train.images)
    rows = [KnnRow(name, classify(each[:split], each[split:], train, test)) for name, each in features.items()]
    most_frequent = train.labels.mode().values
    return [
        *rows,
        KnnRow("chance: the most frequent class", 100 * (test.labels == most_frequent).float().mean().item()),
    ]


def network_regions(model: StellarModel, images: Tensor, read: Callable[..., Tensor]) -> list[Tensor]:
    """Regions of all tokens, `(r, h, w)` for each image."""
    grid = model.grid_size(*images.shape[-2:])
    with torch.inference_mode():
        maps = torch.cat([model.encode(batch).localization for batch in images.split(BATCH_SIZE)])
    return [read(localization, grid) for localization in maps]


def baseline_regions(images: Tensor, model: StellarModel, mean_color: bool, name: str) -> list[Tensor]:
    """As many clusters of patches as the model has tokens, `(r, h, w)` for each image."""
    return [
        patch_regions(image, model.patch_size, model.config.num_sparse_tokens, mean_color)
        for image in tqdm(images, desc=f"k-means, {name}", unit="scene")
    ]


def mean_iou(regions: list[Tensor], masks: list[Tensor]) -> float:
    """Mean over all objects of all images of the best region's IoU, in percent."""
    pairs = zip(regions, masks, strict=True)
    return 100 * torch.cat([best_iou(to_pixels(each, *mask.shape[1:]), mask) for each, mask in pairs]).mean().item()


def measure_iou(networks: dict[str, StellarModel], test: Scenes) -> list[IouRow]:
    """Overlap of objects with their best token, cluster or union of patches."""
    rows = []
    for name, model in networks.items():
        owned = mean_iou(network_regions(model, test.images, argmax_regions), test.masks)
        high = mean_iou(network_regions(model, test.images, threshold_regions), test.masks)
        rows.append(IouRow(f"{name}: tokens", owned, high))
    model = networks["trained"]
    for label, mean_color in (("mean colours", True), ("pixels", False)):
        clusters = baseline_regions(test.images, model, mean_color, label)
        rows.append(IouRow(f"k-means of the patches' {label}", mean_iou(clusters, test.masks), None))
    grid = model.grid_size(*test.images.shape[-2:])
    everything = [torch.ones(1, *grid, dtype=torch.bool)] * len(test.masks)
    rows.append(IouRow("the whole image", mean_iou(everything, test.masks), None))
    bound = torch.cat([best_patches_iou(mask, grid) for mask in test.masks]).mean().item()
    return [*rows, IouRow("bound: the best union of patches", 100 * bound, None)]


def scene_psnr(model: StellarModel, images: Tensor, name: str) -> float:
    """Mean PSNR over images of what the model decodes from its own code."""
    values = []
    for batch in tqdm(images.split(BATCH_SIZE), desc=f"reconstructing, {name}", unit="batch"):
        with torch.inference_mode():
            decoded = model.decode(*model.encode(batch), grid_size=model.grid_size(*batch.shape[-2:]))
        values += [psnr(image, original) for image, original in zip(decoded, batch.float() / 255, strict=True)]
    return sum(values) / len(values)


def measure_psnr(
    networks: dict[str, StellarModel], processor: StellarImageProcessor, test: Scenes, photographs: Path
) -> list[PsnrRow]:
    """Reconstruction of drawn scenes and of photographs, beside that by one colour."""
    rows, photograph_baseline = [], 0.0
    for name, model in networks.items():
        photograph_psnr, photograph_baseline = means(measure_photographs(model, processor, photographs))
        rows.append(PsnrRow(name, scene_psnr(model, test.images, name), photograph_psnr))
    originals = test.images.float() / 255
    one_color = originals.mean(dim=(2, 3), keepdim=True).expand_as(originals)
    baseline = sum(psnr(image, original) for image, original in zip(one_color, originals, strict=True)) / len(originals)
    return [*rows, PsnrRow("mean colour", baseline, photograph_baseline)]


def evaluate(args: argparse.Namespace) -> Report:
    """Everything, with nothing written."""
    model = StellarModel.from_pretrained(args.model).eval()
    networks = {"trained": model, "untrained": untrained_twin(model)}
    model.grid_size(args.size, args.size)  # refuses a size that does not fit before any time is spent
    train = draw_scenes(FIRST_TRAIN_SEED, args.scenes_train, args, "train")
    test = draw_scenes(FIRST_TEST_SEED, args.scenes_test, args, "test")
    processor = StellarImageProcessor.from_pretrained(args.model)
    return Report(
        model=args.model,
        num_train=args.scenes_train,
        num_test=args.scenes_test,
        size=args.size,
        max_objects=args.max_objects,
        class_cue=args.class_cue,
        num_objects=sum(len(mask) for mask in test.masks),
        num_classes=len(SCENE_CLASSES),
        num_neighbours=NUM_NEIGHBOURS,
        temperature=TEMPERATURE,
        knn=measure_knn(networks, train, test),
        iou=measure_iou(networks, test),
        psnr=measure_psnr(networks, processor, test, args.images),
    )


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stellar-tiny", help="name or folder (default: %(default)s)")
    parser.add_argument("--scenes-train", type=int, default=4000, help="scenes of known class (default: %(default)s)")
    parser.add_argument("--scenes-test", type=int, default=1000, help="scenes to measure on (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of a scene in pixels (default: %(default)s)")
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in a scene (default: %(default)s)")
    parser.add_argument(
        "--class-cue",
        default="color",
        choices=get_args(ClassCue),
        help="what a class's objects have in common: outline, texture too, hue too, as in training (default)",
    )
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS, help="folder of .jpg photographs")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--update-card", type=Path, help="model card whose tables to replace")
    parser.add_argument("--check", action="store_true", help="exit with 1 if training did not help enough")
    args = parser.parse_args()
    try:
        check_arguments(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses before anything is measured what would fail at the end.

    Raises:
        OSError: if the card cannot be read, or the folder for the numbers does not exist.
        ValueError: if an option is out of range, or the card has no place for the tables.
    """
    if not NUM_NEIGHBOURS <= args.scenes_train <= FIRST_TEST_SEED - FIRST_TRAIN_SEED:
        raise ValueError(
            f"--scenes-train must be between {NUM_NEIGHBOURS}, the neighbours that vote, and "
            f"{FIRST_TEST_SEED - FIRST_TRAIN_SEED}, where test seeds begin, got {args.scenes_train}"
        )
    if args.scenes_test < 1:
        raise ValueError(f"--scenes-test must be at least 1, got {args.scenes_test}")
    if not any(args.images.glob("*.jpg")):
        raise ValueError(f"--images {args.images} holds no .jpg files")
    if args.json and not args.json.parent.is_dir():
        raise FileNotFoundError(f"--json {args.json}: the folder does not exist")
    if args.update_card:
        replace_section(args.update_card.read_text(encoding="utf-8"), "")


def main() -> int:
    """Command line."""
    args = parse_arguments()
    report = evaluate(args)
    print(markdown(report))
    if args.json:
        write_atomically(args.json, as_json(report).encode())
    if args.update_card:
        card = args.update_card.read_text(encoding="utf-8")
        write_atomically(args.update_card, replace_section(card, markdown(report)).encode())
    if not args.check:
        return 0
    passed = report.knn_gain() >= MIN_KNN_GAIN
    verdict = "passed" if passed else "failed"
    print(f"\ncheck {verdict}: training gave {report.knn_gain():.1f} points, at least {MIN_KNN_GAIN:.0f} are asked for")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
