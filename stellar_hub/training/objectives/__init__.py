"""Objectives: losses and assignments as pure functions of tensors. They know no configuration, loop or logger."""

from stellar_hub.training.objectives.losses import code_loss, koleo_loss, pixel_loss, target_codes
from stellar_hub.training.objectives.prototype_loss import prototype_loss, prototype_scores
from stellar_hub.training.objectives.sinkhorn import sinkhorn_assign
from stellar_hub.training.objectives.sop import (
    SopSupports,
    sop_class_loss,
    sop_distribution,
    sop_labels,
    sop_patch_loss,
    sop_supports,
    sop_targets,
)
from stellar_hub.training.objectives.sop_loss import (
    fused_sop_class_loss,
    fused_sop_patch_loss,
    sop_loss,
    sop_teacher_distribution,
)
from stellar_hub.training.objectives.sop_tasks import SopTask, draw_anchors, draw_low_energy, draw_sop_task

__all__ = [
    "SopSupports",
    "SopTask",
    "code_loss",
    "draw_anchors",
    "draw_low_energy",
    "draw_sop_task",
    "fused_sop_class_loss",
    "fused_sop_patch_loss",
    "koleo_loss",
    "pixel_loss",
    "prototype_loss",
    "prototype_scores",
    "sinkhorn_assign",
    "sop_class_loss",
    "sop_distribution",
    "sop_labels",
    "sop_loss",
    "sop_patch_loss",
    "sop_supports",
    "sop_targets",
    "sop_teacher_distribution",
    "target_codes",
]
