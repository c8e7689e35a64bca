"""Checks of a pretraining batch: each error says what was seen, what is allowed, and the next step."""

from torch import Tensor

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.input_checks import check_image_shape, check_pixel_values


def check_views(
    config: StellarConfig,
    pixel_values: Tensor,
    global_views: Tensor,
    local_views: Tensor | None,
    kept_patches: Tensor | None,
) -> None:
    """Check the inputs of `StellarForPreTraining` against each other and the configuration.

    Raises:
        TypeError: if the images are no tensor of floats or uint8.
        ValueError: if shapes do not fit.
    """
    check_pixel_values(pixel_values, config.patch_size, config.num_channels)
    check_view_stack("global_views", global_views, pixel_values, config)
    if tuple(global_views.shape[-2:]) != tuple(pixel_values.shape[-2:]):
        raise ValueError(
            f"global_views must be of the same size as pixel_values, got {tuple(global_views.shape)} and "
            f"{tuple(pixel_values.shape)}"
        )
    if (config.teacher_momentum is not None or config.use_global_align) and global_views.shape[1] < 2:
        raise ValueError(
            "the teacher (teacher_momentum) and use_global_align read global view 1: pass at least 2 global views, got 1"
        )
    if local_views is not None and config.use_local_views:
        check_view_stack("local_views", local_views, pixel_values, config)
    if kept_patches is not None and config.mask_ratio is not None:
        check_kept_patches(kept_patches, global_views, config.patch_size)


def check_view_stack(name: str, views: Tensor, pixel_values: Tensor, config: StellarConfig) -> None:
    """Views `(B, V, 3, H, W)` with `V >= 1`, as many images as `pixel_values`, sides multiples of the patch."""
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


def check_kept_patches(kept_patches: Tensor, global_views: Tensor, patch_size: int) -> None:
    """Indices `(B V, kept)`, `1 <= kept <= n`; their values are checked on the CPU alone."""
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
