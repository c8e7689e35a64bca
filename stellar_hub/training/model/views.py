"""The views of a pretraining batch: their checks, their encoding, and the matching of their tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.encoder_stellar import StellarEncoder, normalize_pixels
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


class EncodedViews(NamedTuple):
    """The encoder's tokens of `N` views after its final norm.

    Attributes:
        cls_token: `(N, d)`.
        patches: `(N, n, d)`, those that were encoded.
        tokens: `(N, r, d)`.
    """

    cls_token: Tensor
    patches: Tensor
    tokens: Tensor


def encode_views(encoder: StellarEncoder, pixel_values: Tensor, kept_patches: Tensor | None = None) -> EncodedViews:
    """Encode views, whole or with the patches that are kept alone.

    Args:
        encoder: The encoder.
        pixel_values: `(N, 3, H, W)`, floats in [0, 1] or uint8.
        kept_patches: Indices of the patches to keep, `(N, kept)`, or None for all.

    Returns:
        The tokens; the patches are the kept ones in their given order.
    """
    sequence = encoder.embed(normalize_pixels(pixel_values, encoder.pos_embed.dtype))
    if kept_patches is not None:
        cls_token, patches, sparse = encoder.split(sequence)
        index = kept_patches[..., None].expand(-1, -1, patches.shape[-1])
        sequence = torch.cat([cls_token, patches.gather(1, index), sparse], dim=1)
    cls_token, patches, tokens = encoder.split(encoder.run_blocks(sequence))
    return EncodedViews(cls_token[:, 0], patches, tokens)


def matched_rows(predicted: Tensor, target: Tensor, epsilon: float, num_iters: int, use_matching: bool) -> Tensor:
    """For each predicted token the row of its target among the flattened target tokens.

    Args:
        predicted: Tokens of `B V` views, `(B V, r, d)`, view index fastest.
        target: Tokens of the `B` images they are views of, `(B, r, d)`.
        epsilon: Entropy's weight in the matching.
        num_iters: Its iterations.
        use_matching: False pairs tokens by their order.

    Returns:
        Rows of `target.flatten(0, 1)`, `(B V r,)` int64.
    """
    num_images, num_tokens = target.shape[:2]
    views = predicted.shape[0] // num_images
    first = torch.arange(num_images, device=target.device).repeat_interleave(views)[:, None] * num_tokens  # (B V, 1)
    if use_matching:
        index, _ = match_tokens(predicted, target.repeat_interleave(views, dim=0), epsilon, num_iters)
    else:
        index = torch.arange(num_tokens, device=target.device).expand(num_images * views, -1)
    return (first + index).flatten()
