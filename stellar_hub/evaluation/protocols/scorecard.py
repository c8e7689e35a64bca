"""All protocols on the same models: one scorecard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.perceptual_networks import load_metric_networks
from stellar_hub.evaluation.protocols.diagnostics import MIN_IMAGES, DiagnosticsProtocol, evaluate_diagnostics
from stellar_hub.evaluation.protocols.knn import KnnProtocol, evaluate_knn
from stellar_hub.evaluation.protocols.linear import LinearProtocol, evaluate_linear
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol, evaluate_reconstruction
from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol, evaluate_segmentation
from stellar_hub.evaluation.report import Report
from stellar_hub.evaluation.splits import SegmentationSplits, Splits
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
    yield evaluate_knn(backbones, splits, protocol.knn, run)
    yield evaluate_linear(backbones, splits, protocol.linear, run)
    if masks is not None:
        yield evaluate_segmentation(backbones, masks, protocol.segmentation, run)
    images, name = splits.test.images, splits.test.name
    if loaded is not None:
        yield evaluate_reconstruction(decoding, images, name, protocol.reconstruction, loaded, run)
    if len(images) >= MIN_IMAGES:
        yield evaluate_diagnostics(backbones, images, name, protocol.diagnostics, run)
