"""Checks of what users hand to the model: each error says the value seen, what is allowed, and the next step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Resampling overshoots a little; beyond this an image is not in [0, 1] but in another range.
VALUE_TOLERANCE = 0.05


def check_pixel_values(pixel_values: Tensor, patch_size: int, num_channels: int = 3) -> None:
    """Check images for `encode`: shape always; values on CPU tensors outside compilation and export.

    Args:
        pixel_values: Expected `(B, 3, H, W)`, floats in [0, 1] or uint8, sides multiples of `patch_size`.
        patch_size: Side of a patch in pixels.
        num_channels: Channels expected.

    Raises:
        TypeError: if it is no tensor, or of a dtype that is neither floating nor uint8.
        ValueError: if shape or values do not fit.
    """
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"pixel_values must be a torch.Tensor (B, {num_channels}, H, W), got {type(pixel_values).__name__}; "
            "StellarImageProcessor turns images, paths and arrays into one"
        )
    check_image_shape(pixel_values, patch_size, num_channels)
    if pixel_values.dtype != torch.uint8 and not pixel_values.is_floating_point():
        raise TypeError(f"pixel_values must be floating point in [0, 1] or uint8, got {pixel_values.dtype}")
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if pixel_values.device.type == "cpu" and pixel_values.is_floating_point() and not traced:
        check_value_range(pixel_values)


def check_image_shape(pixel_values: Tensor, patch_size: int, num_channels: int) -> None:
    """Rank 4, the right channels, at least one image, sides that are multiples of the patch."""
    shape = tuple(pixel_values.shape)
    if len(shape) != 4:
        hint = "; add a batch dimension: pixel_values.unsqueeze(0)" if len(shape) == 3 else ""
        raise ValueError(f"pixel_values must have shape (B, {num_channels}, H, W), got {shape}{hint}")
    if shape[1] != num_channels:
        hint = "; move the channels: pixel_values.permute(0, 3, 1, 2)" if shape[3] == num_channels else ""
        raise ValueError(f"pixel_values must have {num_channels} channels in dimension 1, got shape {shape}{hint}")
    if shape[0] == 0:
        raise ValueError(f"pixel_values is an empty batch, shape {shape}; pass at least one image")
    for name, side in (("height", shape[2]), ("width", shape[3])):
        if side % patch_size or side == 0:
            allowed = " or ".join(str(size) for size in nearest_multiples(side, patch_size))
            raise ValueError(
                f"the {name} of pixel_values, {side}, is not a multiple of the patch size {patch_size}; "
                f"the nearest that are: {allowed}. StellarImageProcessor resizes and crops to such a size"
            )


def nearest_multiples(value: int, step: int) -> list[int]:
    """The multiples of `step` just below and above `value`, 0 left out."""
    below = value // step * step
    return [size for size in (below, below + step) if size]


def check_value_range(pixel_values: Tensor, name: str = "pixel_values") -> None:
    """Floats within [0, 1], up to the overshoot of resampling, and finite; `name` stands in the error."""
    low, high = (float(value) for value in pixel_values.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{name} contains NaN; check the image and the processing before encode")
    if low >= -VALUE_TOLERANCE and high <= 1 + VALUE_TOLERANCE:
        return
    seen = f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}"
    if math.isinf(low) or math.isinf(high):
        raise ValueError(f"{seen}; they are not finite")
    if low >= -VALUE_TOLERANCE and 2 < high <= 255:
        raise ValueError(f"{seen}; this looks like the 0-255 range: divide by 255, or pass uint8")
    if -3 <= low < 0 and high <= 3:
        raise ValueError(
            f"{seen}; this looks ImageNet-normalized: pass [0, 1], the model normalizes inside (do_normalize=False)"
        )
    raise ValueError(f"{seen}; rescale them first")


def check_encoding(semantics: Tensor, localization: Tensor, num_sparse_tokens: int, hidden_size: int) -> None:
    """Check that `S` `(B, r, d)` and `L` `(B, n, r)` fit each other and the model.

    Any number of tokens up to the model's own decodes (tokens can be left out), more were never trained.

    Raises:
        TypeError: if either is no floating tensor.
        ValueError: if shapes do not fit.
    """
    for name, tensor in (("semantics (S)", semantics), ("localization (L)", localization)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point torch.Tensor, got {kind}")
    s_shape, l_shape = tuple(semantics.shape), tuple(localization.shape)
    both = f"S of shape {s_shape} and L of shape {l_shape}"
    if len(s_shape) != 3 or len(l_shape) != 3:
        raise ValueError(f"S must have shape (B, r, d) and L (B, n, r), got {both}")
    if s_shape[2] != hidden_size:
        raise ValueError(f"S must have the model's width {hidden_size} in its last dimension, got {both}")
    if s_shape[0] != l_shape[0]:
        raise ValueError(f"S and L must be of the same batch size, got {both}")
    if s_shape[1] != l_shape[2]:
        hint = "; L looks transposed: L.transpose(1, 2)" if s_shape[1] == l_shape[1] else ""
        raise ValueError(f"S and L must have the same number of tokens r, got {both}{hint}")
    if not 1 <= s_shape[1] <= num_sparse_tokens:
        raise ValueError(f"S must have 1 to {num_sparse_tokens} tokens, got {both}")
    if s_shape[0] == 0 or l_shape[1] == 0:
        raise ValueError(f"S and L are empty, got {both}; pass at least one image and one patch")


def resolve_grid_size(num_patches: int, grid_size: tuple[int, int] | None) -> tuple[int, int]:
    """The grid `(h, w)` of `num_patches` patches: the one given, else a square.

    Raises:
        ValueError: if it is not given and the count is no square, or it is no pair that multiplies to the count.
    """
    if grid_size is None:
        # Counting up, as `math.isqrt` cannot be traced by torch.compile once sizes vary; a side is rarely above 64.
        side = 1
        while side * side < num_patches:
            side += 1
        if side * side != num_patches:
            raise ValueError(
                f"{num_patches} patches are not a square grid; pass grid_size=(h, w) "
                "(model.grid_size(height, width) gives it for an image's sides)"
            )
        return side, side
    if not isinstance(grid_size, Sequence) or len(grid_size) != 2 or any(int(side) != side for side in grid_size):
        raise ValueError(f"grid_size must be two integers, (h, w), got {grid_size!r}")
    height, width = (int(side) for side in grid_size)
    if height < 1 or width < 1 or height * width != num_patches:
        raise ValueError(f"grid_size {(height, width)} does not multiply to the {num_patches} patches of L")
    return height, width
