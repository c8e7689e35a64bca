"""Which objectives of pretraining a configuration may combine, and the numbers of SOP and of baselines."""

from typing import Any

from .config_checks import MAX_FLOAT
from .limits import check_limit

SOP_COUNTS = (
    *("sop_memory_size", "sop_num_tasks", "sop_num_anchors", "sop_num_supports"),
    *("sop_token_memory_size", "sop_num_token_anchors", "sop_num_token_supports"),
)
FIELDS_OF_OBJECTIVES = (
    *("token_objective", *SOP_COUNTS, "sop_anchor_choice", "sop_smoothing", "sop_temp", "sop_teacher_temp"),
    *("baseline_loss", "baseline_feature", "baseline_weight"),
)


def check_sop_numbers(config: Any) -> None:
    """Raises ValueError unless the numbers of SOP are in range."""
    for name in SOP_COUNTS:
        count = getattr(config, name)
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
        check_limit("config_dimension", count, name)
    for name in ("sop_temp", "sop_teacher_temp"):
        value = getattr(config, name)
        if not 0 < value <= MAX_FLOAT:  # `not`, because of NaN
            raise ValueError(f"{name} must be above 0 and finite, got {value}")
    if not 0 <= config.sop_smoothing <= 1:
        raise ValueError(f"sop_smoothing must be in [0, 1], got {config.sop_smoothing}")


def check_sop_switches(config: Any) -> None:
    """Raises ValueError unless what SOP needs is on, and what excludes it is off."""
    objective = f"token_objective={config.token_objective!r}"
    if config.teacher_momentum is None:
        raise ValueError(f"{objective} needs a teacher, whose embeddings it keeps: set teacher_momentum=0.996")
    if not config.mask_ratio:
        raise ValueError(f"{objective} needs masked views, got mask_ratio={config.mask_ratio}: set it to 0.3 or so")
    if not config.use_cls_head:
        raise ValueError(f"{objective} has one head for cls and tokens: set use_cls_head=True")
    if config.use_global_align:
        raise ValueError(f"{objective} excludes use_global_align, which is for prototypes: set it to False")
    if config.token_objective == "sop_patches" and config.nested_dropout > 0:
        raise ValueError(f"{objective} trains no sparse tokens, so it cannot order them: set nested_dropout=0")
    reconstructs = config.use_decoder and config.reconstruction_weight != 0
    if config.token_objective == "sop_patches" and (reconstructs or config.koleo_weight != 0):
        raise ValueError(
            f"{objective} trains no sparse tokens, so it excludes reconstruction and KoLeo: set "
            "reconstruction_weight=0 and koleo_weight=0"
        )


def check_baseline_switches(config: Any) -> None:
    """Raises ValueError unless what a baseline needs is on, and what excludes it is off."""
    if not 0 < config.baseline_weight <= MAX_FLOAT:  # `not`, because of NaN
        raise ValueError(f"baseline_weight must be above 0 and finite, got {config.baseline_weight}")
    baseline, alone = f"baseline_loss={config.baseline_loss!r}", config.token_objective == "none"
    if alone and config.baseline_loss is None:
        raise ValueError("token_objective='none' is for a baseline alone: set baseline_loss, such as 'dino'")
    if alone and config.use_global_align:
        raise ValueError("token_objective='none' excludes use_global_align: set it to False")
    if alone and config.baseline_loss != "dino" and config.teacher_momentum is not None:
        raise ValueError(f"{baseline} alone does not use a teacher: set teacher_momentum=None")
    if config.baseline_loss == "dino" and config.teacher_momentum is None:
        raise ValueError(f"{baseline} needs a teacher: set teacher_momentum=0.996")
    if config.baseline_loss == "lejepa" and not config.use_local_views:
        raise ValueError(f"{baseline} needs local views: set use_local_views=True")
    if config.baseline_loss is not None and config.token_objective == "sop_patches":
        raise ValueError(
            f"{baseline} and token_objective='sop_patches', which trains nothing else, exclude each other: set "
            "token_objective='none' for the baseline alone, or 'sop' for both"
        )
