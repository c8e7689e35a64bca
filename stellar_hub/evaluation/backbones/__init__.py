"""What is evaluated: STELLAR models and, in the same protocol, timm's, transformers' and raw pixels."""

from stellar_hub.evaluation.backbones.backbone import Backbone, BackboneFacts
from stellar_hub.evaluation.backbones.open_backbone import open_backbone

__all__ = ["Backbone", "BackboneFacts", "open_backbone"]
