"""The protocols: for each one a frozen dataclass with every choice, and a function that returns a report.

Tensor functions that only one protocol uses are here too. What several protocols share is one level up.
"""

from stellar_hub.evaluation.protocols.diagnostics import DiagnosticsProtocol, evaluate_diagnostics
from stellar_hub.evaluation.protocols.knn import KnnProtocol, evaluate_knn
from stellar_hub.evaluation.protocols.linear import LinearProtocol, evaluate_linear
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol, evaluate_reconstruction
from stellar_hub.evaluation.protocols.scorecard import ScorecardProtocol, evaluate_all
from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol, evaluate_segmentation

__all__ = [
    "DiagnosticsProtocol",
    "KnnProtocol",
    "LinearProtocol",
    "ReconstructionProtocol",
    "ScorecardProtocol",
    "SegmentationProtocol",
    "evaluate_all",
    "evaluate_diagnostics",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_reconstruction",
    "evaluate_segmentation",
]
