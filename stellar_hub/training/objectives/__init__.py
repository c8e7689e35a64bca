"""Objectives: pure functions of tensors, which know no configuration, loop or logger."""

from stellar_hub.training.objectives.koleo import koleo_loss
from stellar_hub.training.objectives.prototype_loss import prototype_loss, prototype_scores
from stellar_hub.training.objectives.sinkhorn import sinkhorn_assign

__all__ = ["koleo_loss", "prototype_loss", "prototype_scores", "sinkhorn_assign"]
