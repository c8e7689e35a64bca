"""Features of images: their names, what computes them, and the one pipeline from a source of images to features."""

from stellar_hub.features.encoding import FeatureBatch, FeatureRow
from stellar_hub.features.image_record import ImageRecord
from stellar_hub.features.in_memory import extract_features

__all__ = ["FeatureBatch", "FeatureRow", "ImageRecord", "extract_features"]
