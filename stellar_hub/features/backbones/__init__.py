"""What is evaluated: STELLAR models and, in the same protocol, timm's, transformers' and raw pixels."""

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts
from stellar_hub.features.backbones.open_backbone import open_backbone

__all__ = ["Backbone", "BackboneFacts", "open_backbone"]
