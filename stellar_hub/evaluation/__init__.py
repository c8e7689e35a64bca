"""Evaluation: protocols that measure any backbone, the data they take, and the reports they return.

Metrics that are functions of tensors alone and that other rooms use too are in `stellar_hub.measures`.
"""

from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.left_out import LeftOut
from stellar_hub.evaluation.mask_splits import SegmentationSplits, prepare_segmentation
from stellar_hub.evaluation.perceptual_networks import load_metric_networks
from stellar_hub.evaluation.protocols import (
    DiagnosticsProtocol,
    KnnProtocol,
    LinearProtocol,
    ReconstructionProtocol,
    ScorecardProtocol,
    SegmentationProtocol,
    evaluate_all,
    evaluate_diagnostics,
    evaluate_knn,
    evaluate_linear,
    evaluate_reconstruction,
    evaluate_segmentation,
)
from stellar_hub.evaluation.report import Measurement, Report, write_report, write_scorecard
from stellar_hub.evaluation.splits import Splits, prepare_splits
from stellar_hub.measures import knn_accuracy, knn_predict

__all__ = [
    "DiagnosticsProtocol",
    "KnnProtocol",
    "LeftOut",
    "LinearProtocol",
    "Measurement",
    "ReconstructionProtocol",
    "Report",
    "RunSettings",
    "ScorecardProtocol",
    "SegmentationProtocol",
    "SegmentationSplits",
    "Splits",
    "evaluate_all",
    "evaluate_diagnostics",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_reconstruction",
    "evaluate_segmentation",
    "knn_accuracy",
    "knn_predict",
    "load_metric_networks",
    "prepare_segmentation",
    "prepare_splits",
    "write_report",
    "write_scorecard",
]
