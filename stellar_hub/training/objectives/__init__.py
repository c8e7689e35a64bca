"""Objectives: losses and assignments as pure functions of tensors. They know no configuration, loop or logger."""

from stellar_hub.training.objectives.losses import code_loss, koleo_loss, pixel_loss, target_codes
from stellar_hub.training.objectives.prototype_loss import prototype_loss, prototype_scores
from stellar_hub.training.objectives.sinkhorn import sinkhorn_assign

__all__ = [
    "code_loss",
    "koleo_loss",
    "pixel_loss",
    "prototype_loss",
    "prototype_scores",
    "sinkhorn_assign",
    "target_codes",
]
