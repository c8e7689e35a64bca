"""Features of images: their names, the backbones that compute them, and the one pipeline from images to features.

What keeps features on disk belongs to `stellar_hub.store`.
"""

from stellar_hub.features.backbones import Backbone, BackboneFacts, open_backbone
from stellar_hub.features.embeddings import embed_images
from stellar_hub.features.identity import choose_device, load_model, weights_sha256
from stellar_hub.features.in_memory import extract_features
from stellar_hub.features.names import DENSE, FEATURES, POOLINGS, Feature
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import FeatureBatch, FeatureRow, ImageRecord, file_name

__all__ = [
    "DENSE",
    "FEATURES",
    "POOLINGS",
    "Backbone",
    "BackboneFacts",
    "Feature",
    "FeatureBatch",
    "FeatureRow",
    "ImageRecord",
    "Processes",
    "choose_device",
    "embed_images",
    "extract_features",
    "file_name",
    "load_model",
    "open_backbone",
    "weights_sha256",
]
