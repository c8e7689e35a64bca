"""Segmentation from frozen features: the protocol, and following it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stellar_hub.evaluation.computing import RunSettings, extract_features
from stellar_hub.evaluation.feature_set import check_finite, fit_masks
from stellar_hub.evaluation.report.report import Measurement, Report, make_report
from stellar_hub.evaluation.segmentation_probes import count_all, predict_masks, train_probes
from stellar_hub.evaluation.segments import check_segments, cluster_regions, overlap
from stellar_hub.evaluation.splits import SegmentationSplits, hold_out
from stellar_hub.features.backbones.backbone import DENSE, Backbone
from stellar_hub.measures import argmax_regions, class_iou, mean_iou, pixel_accuracy
from stellar_hub.visualization import SegmentExample, draw_segments

MIOU, PIXELS, BEST, MATCHED = "mIoU, %", "pixels right, %", "best IoU, %", "one-to-one IoU, %"
NUM_SHOWN = 6


@dataclass(frozen=True)
class SegmentationProtocol:
    """A linear probe of dense features, and segments without any training.

    Predictions and masks are compared in the size of the network's input, after its crop.

    Attributes:
        features: See `DENSE`; a model that has none of those named is measured by its usual one.
        learning_rates: AdamW's, tried in one pass; chosen on a held-out part of train, then fitted on all of it.
        num_epochs: Passes over the images.
        batch_size: Images of a step.
        weight_decay: Of the probe.
        held_out: Share of train's images that the choice is made on.
        background: A class that is no object where segments are compared with objects; None if all are.
        num_clusters: Clusters of patches that stand for segments where a model has no tokens.
        seed: Of the part held out, of initial weights, batches and clusters.
        head: What is trained.
        loss: What it is trained with.

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
            raise ValueError(f"features must be some of {', '.join(DENSE)}, got {', '.join(unknown) or 'none'}")
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be some numbers above 0, got {self.learning_rates}")
        if min(self.num_epochs, self.batch_size, self.num_clusters) < 1:
            raise ValueError(
                "num_epochs, batch_size and num_clusters must be at least 1, "
                f"got {self.num_epochs}, {self.batch_size} and {self.num_clusters}"
            )


def evaluate_segmentation(
    backbones: Sequence[Backbone], splits: SegmentationSplits, protocol: SegmentationProtocol, run: RunSettings
) -> Report:
    """Measure models by segmentation.

    Args:
        backbones: The models, the one of interest first.
        splits: Train and test.
        protocol: How.
        run: How it is computed.

    Returns:
        For each model a row for each of its dense features, and one for its segments without training.

    Raises:
        ImportError: if scikit-learn or scipy is not installed.
        ValueError: if train has fewer than two images, one cannot be read, or a feature is not finite.
    """
    backends = check_segments()
    parts = hold_out(torch.zeros(len(splits.train), dtype=torch.long), protocol.held_out, protocol.seed)
    rows: list[Measurement] = []
    images: dict[str, Any] = {}
    for backbone in backbones:
        names = backbone.choose(protocol.features, backbone.dense)
        segments_of = "L" if "L" in backbone.dense else backbone.dense[0]
        train, test = dense_sets(backbone, splits, tuple(dict.fromkeys((*names, segments_of))), run)
        if not run.processes.is_main:
            continue
        train_masks = fit_masks(backbone, splits.train, range(len(splits.train)))
        test_masks = fit_masks(backbone, splits.test, range(len(splits.test)))
        predicted = None
        for name in names:
            maps = [as_map(each[name], backbone) for each in (train, test)]
            row, found = probe_row(backbone, name, maps, (train_masks, test_masks), parts, splits, protocol, run)
            rows.append(row)
            predicted = found if predicted is None else predicted
        regions = segments(backbone, segments_of, test[segments_of], protocol, run)
        rows.append(segment_row(backbone, segments_of, regions, test_masks, protocol))
        if not images and predicted is not None:
            title = f"{backbone.name}: {names[0]}, {rows[-1].features}"
            examples = shown_examples(backbone, splits, test_masks, predicted, regions)
            images["segmentation-overlays"] = draw_segments(examples, splits.test.classes, title, protocol.background)
    notes = [f"{splits.num_shared} test images are in train too: the numbers flatter"] if splits.num_shared else []
    return make_report(
        "segmentation", protocol, splits.facts(), backbones, rows, backends=backends, notes=notes, images=images
    )


def dense_sets(
    backbone: Backbone, splits: SegmentationSplits, names: Sequence[str], run: RunSettings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A backbone's dense features of train and test, `(N, n, d)` each."""
    backbone.to(run.processes.device)
    found = []
    for what, images, data_hash in (
        ("train", splits.train, splits.train_hash),
        ("test", splits.test, splits.test_hash),
    ):
        features = extract_features(backbone, images.images, names, run, data_hash, f"encoding {what}")
        for name, feature in features.items():
            check_finite(name, feature, [str(path) for path in images.images])
        found.append(features)
    return found[0], found[1]


def as_map(features: Tensor, backbone: Backbone) -> Tensor:
    """`(N, n, d)` to `(N, d, h, w)`."""
    return features.transpose(1, 2).unflatten(2, backbone.grid_size())


def probe_row(
    backbone: Backbone,
    name: str,
    maps: Sequence[Tensor],
    masks: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor],
    splits: SegmentationSplits,
    protocol: SegmentationProtocol,
    run: RunSettings,
) -> tuple[Measurement, Tensor]:
    """What a linear probe of one dense feature reaches; the predicted masks of the first test images besides."""
    device, number = run.processes.device, len(splits.train.classes)
    train, test = (each.to(device) for each in maps)
    train_masks, test_masks = (each.to(device) for each in masks)

    def probes(index: Tensor, rates: Sequence[float], what: str) -> Any:
        with run.progress(range(protocol.num_epochs), f"probe of {name}, {what}", unit="epoch") as bar:
            return train_probes(
                train[index],
                train_masks[index],
                number,
                rates,
                protocol.num_epochs,
                protocol.batch_size,
                protocol.weight_decay,
                protocol.seed,
                bar.update,
            )

    fitted, held = (part.to(device) for part in parts)
    tried = probes(fitted, protocol.learning_rates, "choosing the learning rate")
    scores = [
        100 * mean_iou(count_all(each, train[held], train_masks[held], number, protocol.batch_size)) for each in tried
    ]
    rate = protocol.learning_rates[scores.index(max(scores))]
    (probe,) = probes(torch.arange(len(train), device=device), (rate,), "fitting")
    counts = count_all(probe, test, test_masks, number, protocol.batch_size)
    by_class = zip(splits.train.classes, (100 * class_iou(counts)).tolist(), strict=True)
    details = {
        "learning_rate": rate,
        "held_out_mean_iou": {str(each): score for each, score in zip(protocol.learning_rates, scores, strict=True)},
        "class_iou": dict(by_class),
    }
    metrics: dict[str, float | None] = {MIOU: 100 * mean_iou(counts), PIXELS: 100 * pixel_accuracy(counts)}
    shown = predict_masks(probe, test[:NUM_SHOWN], test_masks[:NUM_SHOWN]).cpu()
    return Measurement(backbone.name, name, metrics, details), shown


def segments(
    backbone: Backbone, feature: str, features: Tensor, protocol: SegmentationProtocol, run: RunSettings
) -> list[Tensor]:
    """Segments of each test image, `(r, h, w)` bool: of tokens where there are any, else clusters of patches."""
    grid = backbone.grid_size()
    if feature == "L":
        return [argmax_regions(each, grid) for each in features]
    progress = run.progress(features, f"clustering patches, {backbone.name}", len(features), "image")
    return [cluster_regions(each, grid, protocol.num_clusters, protocol.seed) for each in progress]


def segment_row(
    backbone: Backbone, feature: str, regions: list[Tensor], masks: Tensor, protocol: SegmentationProtocol
) -> Measurement:
    """How well segments fit objects, without training."""
    best, matched = overlap(regions, masks, protocol.background)
    label = "tokens as segments" if feature == "L" else f"{protocol.num_clusters} clusters of {feature}"
    if not best:
        return Measurement(backbone.name, label, {BEST: None, MATCHED: None}, {"num_objects": 0})
    metrics: dict[str, float | None] = {BEST: 100 * sum(best) / len(best), MATCHED: 100 * sum(matched) / len(matched)}
    return Measurement(backbone.name, label, metrics, {"num_objects": len(best)})


def shown_examples(
    backbone: Backbone, splits: SegmentationSplits, masks: Tensor, predicted: Tensor, regions: list[Tensor]
) -> list[SegmentExample]:
    """The first test images with all that is known of them."""
    from stellar_hub.features.backbones.backbone import prepare_image

    return [
        SegmentExample(
            prepare_image(backbone.processor, splits.test.images[index]),
            masks[index],
            predicted[index],
            regions[index].long().argmax(dim=0),
        )
        for index in range(len(predicted))
    ]
