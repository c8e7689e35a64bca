"""Segmentation by frozen dense features: a linear probe, and regions found without any training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from stellar_hub.data.labelled import hold_out
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.digests import name_of
from stellar_hub.evaluation.feature_set import check_finite, fit_masks
from stellar_hub.evaluation.mask_splits import SegmentationSplits
from stellar_hub.evaluation.protocols.checks import check_positive, check_seed
from stellar_hub.evaluation.readable import evaluate_readable
from stellar_hub.evaluation.report import Measurement, Report, make_report
from stellar_hub.evaluation.segmenters import (
    cluster_regions,
    count_predictions,
    library_versions,
    object_ious,
    predict_masks,
    train_probes,
)
from stellar_hub.features.backbones.backbone import Backbone, pixel_values_of
from stellar_hub.features.names import DENSE
from stellar_hub.measures import UNLABELLED, argmax_regions, class_iou, mean_iou, pixel_accuracy
from stellar_hub.visualization import SegmentExample, draw_segments

MIOU, PIXELS, BEST, MATCHED = "mIoU, %", "pixels right, %", "best IoU, %", "one-to-one IoU, %"
NUM_SHOWN = 6


@dataclass(frozen=True)
class SegmentationProtocol:
    """The choices of segmentation by a linear probe and by regions that are found without training.

    Predictions and masks are compared at the size of the network's input, after its crop. The learning rate is chosen
    on a held-out part of train; then the probe is fitted on all of train, and test is used once.

    Attributes:
        features: Features to probe, names of `DENSE`. A model that has none of them is evaluated with its first one.
        learning_rates: Learning rates of AdamW to choose from. All are tried in one pass over the images.
        num_epochs: Number of passes over the images.
        batch_size: Number of images per step.
        weight_decay: Weight decay of the probe.
        held_out: Share of the training images to choose on, in (0, 1).
        background: Class that is not an object when regions are compared with objects; None if every class is one.
        num_clusters: Number of clusters of patches per image, the regions of a model without tokens.
        seed: Seed of the held-out part, of initial weights, of the order of batches and of clusters.
        head: Description of the layers that are trained, for the report.
        loss: Description of the loss, for the report.

    Raises:
        ValueError: if a value is out of range.
    """

    features: tuple[str, ...] = ("patches",)
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    num_epochs: int = 20
    batch_size: int = 16
    weight_decay: float = 0.01
    held_out: float = 0.1
    background: int | None = 0
    num_clusters: int = 16
    seed: int = 0
    head: str = "BatchNorm + 1 x 1 convolution, bilinear to the mask's size"
    loss: str = "cross-entropy + Dice"

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in DENSE]
        if unknown or not self.features:
            raise ValueError(f"features must be one or more of {', '.join(DENSE)}, got {', '.join(unknown) or 'none'}")
        check_positive("learning_rates", self.learning_rates)
        if min(self.num_epochs, self.batch_size, self.num_clusters) < 1:
            raise ValueError(
                "num_epochs, batch_size and num_clusters must be at least 1, "
                f"got {self.num_epochs}, {self.batch_size} and {self.num_clusters}"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be within (0, 1), got {self.held_out}")
        if self.background is not None and not 0 <= self.background < UNLABELLED:
            raise ValueError(f"background must be the number of a class, from 0, or None, got {self.background}")
        check_seed(self.seed)


def evaluate_segmentation(
    backbones: Sequence[Backbone], splits: SegmentationSplits, protocol: SegmentationProtocol, run: RunSettings
) -> Report:
    """Evaluates models by segmentation.

    Args:
        backbones: Models to evaluate, the most important one first: its segmentations are drawn.
        splits: Images with masks, train and test.
        protocol: Choices that decide what is measured.
        run: Choices that decide how it is computed.

    Returns:
        A report with one row per model and dense feature, and one row per model for regions found without training.

    Raises:
        ImportError: if scikit-learn or scipy is not installed.
        ValueError: if train has fewer than two images, `background` is not a class, or a feature is not finite.
    """
    report, _ = evaluate_readable(
        splits, backbones, run, lambda data: measure_segmentation(backbones, data, protocol, run)
    )
    return report


def measure_segmentation(
    backbones: Sequence[Backbone], splits: SegmentationSplits, protocol: SegmentationProtocol, run: RunSettings
) -> Report:
    """Evaluates models as `evaluate_segmentation` does, but raises UnreadableImagesError for an unreadable image."""
    check_background(protocol, splits.train.classes)
    backends = library_versions()
    parts = hold_out(torch.zeros(len(splits.train), dtype=torch.long), protocol.held_out, protocol.seed)
    rows: list[Measurement] = []
    images: dict[str, Image.Image] = {}
    for backbone in backbones:
        names = backbone.choose(protocol.features, backbone.dense)
        region_feature = "L" if "L" in backbone.dense else backbone.dense[0]
        train, test = _dense_features(backbone, splits, tuple(dict.fromkeys((*names, region_feature))), run)
        if not run.processes.is_main:
            continue
        train_masks, test_masks = (
            fit_masks(backbone, images, run.progress(range(len(images)), f"fitting masks of {part}", unit="mask"))
            for part, images in (("train", splits.train), ("test", splits.test))
        )
        predicted = None
        shown = choose_shown(test_masks, NUM_SHOWN)
        for name in names:
            maps = [_to_map(each[name], backbone) for each in (train, test)]
            masks = (train_masks, test_masks)
            row, found = _probe_row(backbone, name, maps, masks, parts, shown, splits, protocol, run)
            rows.append(row)
            predicted = found if predicted is None else predicted
        regions = _find_regions(backbone, region_feature, test[region_feature], protocol, run)
        rows.append(_region_row(backbone, region_feature, regions, test_masks, protocol, run))
        if not images and predicted is not None:
            title = f"{backbone.name}: {names[0]}, {rows[-1].features}"
            examples = _make_examples(backbone, splits, shown, test_masks, predicted, regions)
            images["segmentation-overlays"] = draw_segments(examples, splits.test.classes, title, protocol.background)
    return make_report(
        "segmentation",
        protocol,
        splits.facts(),
        backbones,
        rows,
        backends=backends,
        notes=splits.notes(),
        images=images,
    )


def check_background(protocol: SegmentationProtocol, classes: Sequence[str]) -> None:
    """Raises ValueError if the class of the background does not exist."""
    if protocol.background is not None and protocol.background >= len(classes):
        raise ValueError(
            f"background must be the number of a class, 0 to {len(classes) - 1}, got {protocol.background}"
        )


def _dense_features(
    backbone: Backbone, splits: SegmentationSplits, names: Sequence[str], run: RunSettings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Computes a model's dense features of train and of test, `(N, n, d)` each."""
    backbone.to(run.processes.device)
    found = []
    for split, images, data_hash in (
        ("train", splits.train, splits.train_hash),
        ("test", splits.test, splits.test_hash),
    ):
        features = all_features(backbone, images.images, names, run, data_hash, f"encoding {split}")
        for name, feature in features.items():
            check_finite(name, feature, [name_of(images.images, index) for index in range(len(images))])
        found.append(features)
    return found[0], found[1]


def _to_map(features: Tensor, backbone: Backbone) -> Tensor:
    """Reshapes features of patches, `(N, n, d)`, to maps, `(N, d, h, w)`."""
    return features.transpose(1, 2).unflatten(2, backbone.grid_size())


def _probe_row(
    backbone: Backbone,
    name: str,
    maps: Sequence[Tensor],
    masks: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor],
    shown: Sequence[int],
    splits: SegmentationSplits,
    protocol: SegmentationProtocol,
    run: RunSettings,
) -> tuple[Measurement, Tensor]:
    """Trains and measures a linear probe of one feature; returns the row, and masks of the test images to show."""
    device, number = run.processes.device, len(splits.train.classes)
    train, test = (each.to(device) for each in maps)
    train_masks, test_masks = (each.to(device) for each in masks)

    def train_on(index: Tensor, rates: Sequence[float], what: str) -> nn.ModuleList:
        description = f"probe of {name}, {what}"
        with run.progress_of(protocol.num_epochs, description, "epoch") as progress, progress.keep_showing():
            return train_probes(
                train[index],
                train_masks[index],
                number,
                rates,
                protocol.num_epochs,
                protocol.batch_size,
                protocol.weight_decay,
                protocol.seed,
                progress.update,
            )

    def count_on(each: nn.Module, features: Tensor, true_masks: Tensor) -> Tensor:
        with run.progress_of(len(features), f"probe of {name}, predicting masks", "image") as progress:
            return count_predictions(each, features, true_masks, number, protocol.batch_size, progress.update)

    fitted, held = (part.to(device) for part in parts)
    tried = train_on(fitted, protocol.learning_rates, "choosing the learning rate")
    scores = [100 * mean_iou(count_on(each, train[held], train_masks[held])) for each in tried]
    rate = protocol.learning_rates[scores.index(max(scores))]
    (probe,) = train_on(torch.arange(len(train), device=device), (rate,), "fitting")
    counts = count_on(probe, test, test_masks)
    by_class = zip(splits.train.classes, (100 * class_iou(counts)).tolist(), strict=True)
    details = {
        "learning_rate": rate,
        "held_out_mean_iou": {str(each): score for each, score in zip(protocol.learning_rates, scores, strict=True)},
        "class_iou": dict(by_class),
    }
    metrics: dict[str, float | None] = {MIOU: 100 * mean_iou(counts), PIXELS: 100 * pixel_accuracy(counts)}
    predicted = predict_masks(probe, test[list(shown)], test_masks[list(shown)]).cpu()
    return Measurement(backbone.name, name, metrics, details), predicted


def _find_regions(
    backbone: Backbone, feature: str, features: Tensor, protocol: SegmentationProtocol, run: RunSettings
) -> list[Tensor]:
    """Returns regions of each test image, `(r, h, w)` bool: those of its tokens, or clusters of its patches."""
    grid = backbone.grid_size()
    if feature == "L":
        return [argmax_regions(each, grid) for each in features]
    images = run.progress(features, f"clustering patches, {backbone.name}", len(features), "image")
    return [cluster_regions(each, grid, protocol.num_clusters, protocol.seed) for each in images]


def _region_row(
    backbone: Backbone,
    feature: str,
    regions: list[Tensor],
    masks: Tensor,
    protocol: SegmentationProtocol,
    run: RunSettings,
) -> Measurement:
    """Measures how well regions fit objects."""
    shown = run.progress(regions, f"comparing regions, {backbone.name}", unit="image")
    best, matched = object_ious(shown, masks, protocol.background)
    label = "tokens as segments" if feature == "L" else f"{protocol.num_clusters} clusters of {feature}"
    if not best:
        return Measurement(backbone.name, label, {BEST: None, MATCHED: None}, {"num_objects": 0})
    metrics: dict[str, float | None] = {BEST: 100 * sum(best) / len(best), MATCHED: 100 * sum(matched) / len(matched)}
    return Measurement(backbone.name, label, metrics, {"num_objects": len(best)})


def choose_shown(masks: Tensor, count: int) -> list[int]:
    """Chooses test images that together show as many classes as possible; the rest are spread over all images.

    Args:
        masks: True classes, `(N, H, W)` uint8; 255 is no class.
        count: Largest number of images.

    Returns:
        Indices in ascending order.
    """
    classes = [set(mask.unique().tolist()) - {UNLABELLED} for mask in masks]
    chosen: list[int] = []
    missing = set().union(*classes)
    while missing and len(chosen) < count:
        best = max(range(len(classes)), key=lambda index: len(classes[index] & missing))
        chosen.append(best)
        missing -= classes[best]
    spread = [place * len(classes) // count for place in range(count)]
    return sorted([*chosen, *(index for index in dict.fromkeys(spread) if index not in chosen)][:count])


def _make_examples(
    backbone: Backbone,
    splits: SegmentationSplits,
    shown: Sequence[int],
    masks: Tensor,
    predicted: Tensor,
    regions: list[Tensor],
) -> list[SegmentExample]:
    """Returns some test images with their true masks, predicted masks and regions."""
    return [
        SegmentExample(
            pixel_values_of(backbone.processor, splits.test.images[index]),
            masks[index],
            labels,
            regions[index].long().argmax(dim=0),
        )
        for index, labels in zip(shown, predicted, strict=True)
    ]
