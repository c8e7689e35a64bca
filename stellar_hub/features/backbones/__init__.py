"""Backbones: STELLAR models, models of timm and of transformers, and raw pixels, all with the same methods."""

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts, PixelBackbone
from stellar_hub.features.backbones.open_backbone import check_spec, open_backbone
from stellar_hub.features.backbones.other_libraries import TimmBackbone, TransformersBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone

__all__ = [
    "Backbone",
    "BackboneFacts",
    "PixelBackbone",
    "StellarBackbone",
    "TimmBackbone",
    "TransformersBackbone",
    "check_spec",
    "open_backbone",
]
