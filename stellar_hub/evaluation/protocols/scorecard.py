"""Several protocols on the same models: one scorecard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stellar_hub.evaluation.computing import RunSettings
from stellar_hub.evaluation.protocols.diagnostics import MIN_IMAGES, DiagnosticsProtocol, evaluate_diagnostics
from stellar_hub.evaluation.protocols.knn import KnnProtocol, evaluate_knn
from stellar_hub.evaluation.protocols.linear import LinearProtocol, evaluate_linear
from stellar_hub.evaluation.protocols.reconstruction import (
    ReconstructionProtocol,
    evaluate_reconstruction,
    load_networks,
)
from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol, evaluate_segmentation
from stellar_hub.evaluation.report.report import Report
from stellar_hub.evaluation.splits import SegmentationSplits, Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import StellarBackbone


@dataclass(frozen=True)
class ScorecardProtocol:
    """The protocols that a scorecard is made of."""

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
    """Follow all protocols that the data and the models allow.

    Args:
        backbones: The models, the one of interest first.
        splits: Labelled images; test's are those that are reconstructed and diagnosed.
        masks: Images with masks; None leaves segmentation out.
        protocol: How.
        run: How it is computed.
        networks: Folder with weights for metrics of reconstruction; None takes torch.hub's own.

    Yields:
        Each report when it is done: kNN, linear, segmentation where there are masks, reconstruction where a model
        decodes, diagnostics where test has enough images.

    Raises:
        ImportError: if a library is missing.
        ValueError: as the protocols.
    """
    decoding = [each for each in backbones if isinstance(each, StellarBackbone) and each.network.can_decode]
    loaded = load_networks(protocol.reconstruction, networks) if decoding else None
    yield evaluate_knn(backbones, splits, protocol.knn, run)
    yield evaluate_linear(backbones, splits, protocol.linear, run)
    if masks is not None:
        yield evaluate_segmentation(backbones, masks, protocol.segmentation, run)
    images, name = splits.test.images, splits.test.name
    if loaded is not None:
        yield evaluate_reconstruction(decoding, images, name, protocol.reconstruction, loaded, run)
    if len(images) >= MIN_IMAGES:
        yield evaluate_diagnostics(backbones, images, name, protocol.diagnostics, run)
