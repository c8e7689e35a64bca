"""All protocols on the same models: one scorecard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.linear_classifiers import scikit_learn_version
from stellar_hub.evaluation.mask_splits import SegmentationSplits
from stellar_hub.evaluation.perceptual_networks import load_metric_networks
from stellar_hub.evaluation.protocols.diagnostics import MIN_IMAGES, DiagnosticsProtocol, measure_diagnostics
from stellar_hub.evaluation.protocols.knn import KnnProtocol, measure_knn
from stellar_hub.evaluation.protocols.linear import LinearProtocol, measure_linear
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol, measure_reconstruction
from stellar_hub.evaluation.protocols.segmentation import (
    SegmentationProtocol,
    check_background,
    evaluate_segmentation,
)
from stellar_hub.evaluation.readable import evaluate_readable
from stellar_hub.evaluation.report import Report
from stellar_hub.evaluation.sample import PART, Sample, draw_sample
from stellar_hub.evaluation.segmenters import library_versions
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import StellarBackbone


@dataclass(frozen=True)
class ScorecardProtocol:
    """The choices of every protocol on a scorecard."""

    knn: KnnProtocol = field(default_factory=KnnProtocol)
    linear: LinearProtocol = field(default_factory=LinearProtocol)
    segmentation: SegmentationProtocol = field(default_factory=SegmentationProtocol)
    reconstruction: ReconstructionProtocol = field(default_factory=ReconstructionProtocol)
    diagnostics: DiagnosticsProtocol = field(default_factory=DiagnosticsProtocol)


def evaluate_all(
    backbones: Sequence[Backbone],
    splits: Splits,
    masks: SegmentationSplits | None,
    protocol: ScorecardProtocol,
    run: RunSettings,
    networks: Path | None = None,
) -> Iterator[Report]:
    """Runs all protocols that the data and the models allow.

    Args:
        backbones: Models to evaluate, the most important one first.
        splits: Labelled images. Reconstruction and diagnostics use the test images.
        masks: Images with masks; None leaves segmentation out.
        protocol: Choices that decide what is measured.
        run: Choices that decide how it is computed.
        networks: Folder with the weights of LPIPS and rFID; None means torch.hub's own folder.

    Yields:
        Each report when it is complete: kNN, linear, segmentation if there are masks, reconstruction if a model
        decodes, and diagnostics if there are enough test images.

    Raises:
        ImportError: if a library is not installed.
        ValueError: if a protocol raises it.
    """
    decoding = [each for each in backbones if isinstance(each, StellarBackbone) and each.network.can_decode]
    metrics = protocol.reconstruction
    loaded = load_metric_networks(metrics.metrics, metrics.lpips_net, networks) if decoding else None
    _check_before_work(splits, masks, protocol)
    # Each protocol hands on the images that it could read, so that the next one need not look for them again.
    report, splits = evaluate_readable(
        splits, backbones, run, lambda data: measure_knn(backbones, data, protocol.knn, run)
    )
    yield report
    report, splits = evaluate_readable(
        splits, backbones, run, lambda data: measure_linear(backbones, data, protocol.linear, run)
    )
    yield report
    if masks is not None:
        yield evaluate_segmentation(backbones, masks, protocol.segmentation, run)
    if loaded is not None:
        sample = _test_images(splits, metrics.max_images or len(splits.test), metrics.seed, run)
        report, _ = evaluate_readable(
            sample, backbones, run, lambda data: measure_reconstruction(decoding, data, metrics, loaded, run)
        )
        yield report
    if len(splits.test) >= MIN_IMAGES:
        sample = _test_images(splits, protocol.diagnostics.max_images, protocol.diagnostics.seed, run)
        report, _ = evaluate_readable(
            sample, backbones, run, lambda data: measure_diagnostics(backbones, data, protocol.diagnostics, run)
        )
        yield report


def _check_before_work(splits: Splits, masks: SegmentationSplits | None, protocol: ScorecardProtocol) -> None:
    """Raises the errors that would end a later protocol, before the first one starts."""
    protocol.knn.resolved(len(splits.train))
    if protocol.linear.logistic:
        scikit_learn_version()
    if masks is not None:
        library_versions()
        check_background(protocol.segmentation, masks.train.classes)


def _test_images(splits: Splits, max_images: int, seed: int, run: RunSettings) -> Sample:
    """Returns a sample of the test images that names those that were left out before."""
    sample = draw_sample(splits.test.images, splits.test.name, max_images, seed, run)
    before = tuple(each._replace(part=PART) for each in splits.left_out if each.part == "test")
    return replace(sample, left_out=(*before, *sample.left_out))
