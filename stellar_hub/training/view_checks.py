"""Checks of a pretraining batch: each error says what was seen, what is allowed, and the next step."""

import torch
from torch import Tensor

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.input_checks import check_image_shape, check_pixel_values, check_value_range


def check_views(
    config: StellarConfig,
    pixel_values: Tensor,
    global_views: Tensor,
    local_views: Tensor | None,
    kept_patches: Tensor | None,
) -> None:
    """Check the inputs of `StellarForPreTraining` against each other and the configuration.

    Raises:
        TypeError: if images or views are no tensors of floats or uint8, or `kept_patches` none of int64.
        ValueError: if shapes or, on the CPU, values do not fit.
    """
    if config.koleo_weight > 0 and config.num_sparse_tokens < 2:
        raise ValueError(
            f"KoLeo spreads the tokens of an image and needs two, but num_sparse_tokens is {config.num_sparse_tokens}: "
            "set koleo_weight=0"
        )
    check_pixel_values(pixel_values, config.patch_size, config.num_channels)
    check_view_stack("global_views", global_views, pixel_values, config)
    if tuple(global_views.shape[-2:]) != tuple(pixel_values.shape[-2:]):
        raise ValueError(
            f"global_views must be of the same size as pixel_values, got {tuple(global_views.shape)} and "
            f"{tuple(pixel_values.shape)}"
        )
    if (config.teacher_momentum is not None or config.use_global_align) and global_views.shape[1] < 2:
        raise ValueError(
            "the teacher (teacher_momentum) and use_global_align read global view 1: pass 2 global views or more, got 1"
        )
    if local_views is not None and config.use_local_views:
        check_view_stack("local_views", local_views, pixel_values, config)
    if kept_patches is not None and config.mask_ratio is not None:
        check_kept_patches(kept_patches, global_views, config.patch_size)


def check_view_stack(name: str, views: Tensor, pixel_values: Tensor, config: StellarConfig) -> None:
    """Views `(B, V, 3, H, W)` with `V >= 1`, as many images as `pixel_values`, sides multiples of the patch."""
    if not isinstance(views, Tensor) or not (views.is_floating_point() or views.dtype == torch.uint8):
        kind = views.dtype if isinstance(views, Tensor) else type(views).__name__
        raise TypeError(f"{name} must be a torch.Tensor, floating point in [0, 1] or uint8, got {kind}")
    shape = tuple(views.shape)
    if views.ndim != 5 or shape[0] != pixel_values.shape[0] or shape[1] < 1:
        raise ValueError(
            f"{name} must have shape (B, V, {config.num_channels}, H, W) with V >= 1 and the batch size "
            f"{pixel_values.shape[0]} of pixel_values, got {shape}"
        )
    try:
        check_image_shape(views[:, 0], config.patch_size, config.num_channels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if views.device.type == "cpu" and views.is_floating_point() and not torch.compiler.is_compiling():
        check_value_range(views, name)


def check_kept_patches(kept_patches: Tensor, global_views: Tensor, patch_size: int) -> None:
    """Indices `(B V, kept)`, int64, `1 <= kept <= n`; their values are checked on the CPU alone."""
    if kept_patches.dtype != torch.int64:
        raise TypeError(f"kept_patches must be indices of dtype torch.int64, got {kept_patches.dtype}")
    num_views = global_views.shape[0] * global_views.shape[1]
    num_patches = (global_views.shape[-2] // patch_size) * (global_views.shape[-1] // patch_size)
    shape = tuple(kept_patches.shape)
    if kept_patches.ndim != 2 or shape[0] != num_views or not 1 <= shape[1] <= num_patches:
        raise ValueError(
            f"kept_patches must have shape (B V, kept) = ({num_views}, 1 to {num_patches}), got {shape}; "
            "the view index is the fastest"
        )
    if kept_patches.device.type == "cpu":
        low, high = (int(value) for value in kept_patches.aminmax())
        if low < 0 or high >= num_patches:
            raise ValueError(f"kept_patches must lie in 0..{num_patches - 1}, got {low}..{high}")
