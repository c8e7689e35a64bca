"""Features of pictures: computed by a backbone, by several processes if there are, and kept on disk on request."""

from stellar_hub.evaluation.features.extraction import RunSettings, extract_features
from stellar_hub.evaluation.features.feature_set import FeatureSet

__all__ = ["FeatureSet", "RunSettings", "extract_features"]
