"""Checks of what users pass to the model. Each error says what was seen, what is allowed, and what to do."""

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

# Resampling overshoots [0, 1] a little. Values beyond this tolerance are in another range.
VALUE_TOLERANCE = 0.05


def check_pixel_values(pixel_values: Tensor, patch_size: int, num_channels: int = 3) -> None:
    """Checks images for `encode`.

    The shape is always checked. Values are checked on CPU tensors, outside of compilation and export.

    Args:
        pixel_values: Images, `(B, 3, H, W)`, floats in [0, 1] or uint8; sides are multiples of `patch_size`.
        patch_size: Side of a patch in pixels.
        num_channels: Number of channels an image must have.

    Raises:
        TypeError: if `pixel_values` is not a tensor, or its dtype is neither floating point nor uint8.
        ValueError: if shape or values do not fit.
    """
    if not isinstance(pixel_values, Tensor):
        hint = "StellarImageProcessor makes one from images, paths and arrays"
        if isinstance(pixel_values, Mapping) and "pixel_values" in pixel_values:
            hint = 'pass its entry "pixel_values"'
        raise TypeError(
            f"pixel_values must be a torch.Tensor (B, {num_channels}, H, W), got {type(pixel_values).__name__}: {hint}"
        )
    check_image_shape(pixel_values, patch_size, num_channels)
    if pixel_values.dtype != torch.uint8 and not pixel_values.is_floating_point():
        raise TypeError(f"pixel_values must be floating point in [0, 1] or uint8, got {pixel_values.dtype}")
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if pixel_values.device.type == "cpu" and pixel_values.is_floating_point() and not traced:
        check_value_range(pixel_values)


def check_image_shape(pixel_values: Tensor, patch_size: int, num_channels: int) -> None:
    """Raises ValueError unless there are four dimensions, the right channels, an image, and sides that fit the patch.

    Args:
        pixel_values: Images, expected as `(B, num_channels, H, W)`.
        patch_size: Side of a patch in pixels.
        num_channels: Number of channels an image must have.
    """
    shape = tuple(pixel_values.shape)
    if len(shape) != 4:
        hint = ": add a batch dimension with pixel_values.unsqueeze(0)" if len(shape) == 3 else ""
        raise ValueError(f"pixel_values must have shape (B, {num_channels}, H, W), got {shape}{hint}")
    if shape[1] != num_channels:
        hint = ": move the channels with pixel_values.permute(0, 3, 1, 2)" if shape[3] == num_channels else ""
        raise ValueError(f"pixel_values must have {num_channels} channels in dimension 1, got shape {shape}{hint}")
    if shape[0] == 0:
        raise ValueError(f"pixel_values is an empty batch, shape {shape}: pass at least one image")
    for name, side in (("height", shape[2]), ("width", shape[3])):
        if side % patch_size or side == 0:
            allowed = " or ".join(str(size) for size in nearest_multiples(side, patch_size))
            raise ValueError(
                f"the {name} of pixel_values must be a multiple of the patch size {patch_size}, such as {allowed}, "
                f"got {side}: StellarImageProcessor resizes and crops images to such a size"
            )


def nearest_multiples(value: int, step: int) -> list[int]:
    """Returns the multiples of `step` just below and above `value`, without 0."""
    below = value // step * step
    return [size for size in (below, below + step) if size]


def check_value_range(pixel_values: Tensor, name: str = "pixel_values") -> None:
    """Raises ValueError unless floats are finite and in [0, 1], up to the overshoot of resampling.

    Args:
        pixel_values: Values, of any shape.
        name: Name of the values in the error.
    """
    low, high = (float(value) for value in pixel_values.detach().aminmax())
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{name} must lie in [0, 1], got NaN: check the image and how it was processed")
    if low >= -VALUE_TOLERANCE and high <= 1 + VALUE_TOLERANCE:
        return
    seen = f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}"
    if math.isinf(low) or math.isinf(high):
        raise ValueError(f"{seen}: check the image and how it was processed")
    if low >= -VALUE_TOLERANCE and 2 < high <= 255:
        raise ValueError(f"{seen}, which looks like the 0-255 range: divide by 255, or pass uint8")
    if -3 <= low < 0 and high <= 3:
        raise ValueError(
            f"{seen}, which looks ImageNet-normalized: pass values before normalization (do_normalize=False), "
            "because the model normalizes inside"
        )
    raise ValueError(f"{seen}: rescale them first")


def unpack_encoding(
    encoding: Any, localization: Tensor | None, grid_size: tuple[int, int] | None
) -> tuple[Any, Any, tuple[int, int] | None]:
    """Returns `S`, `L` and the grid from the arguments of `decode`: an encoding, or its two tensors.

    Raises:
        TypeError: if `L` is missing, or if it is given beside a whole encoding.
        ValueError: if the grid given is not the encoding's.
    """
    # By what it is made of, not by its class: a model that came with its own code has a class of its own.
    if not isinstance(encoding, tuple):
        if localization is None:
            hint = "pass the whole encoding, or model.decode(S, L)"
            if isinstance(encoding, str | os.PathLike):
                hint = "read the file with StellarEncoding.load(path), and pass the encoding"
            elif hasattr(encoding, "last_hidden_state"):
                hint = "pass out.last_hidden_state and out.localization, or the result of model.encode"
            raise TypeError(f"decode needs L beside S, got {type(encoding).__name__} alone: {hint}")
        return encoding, localization, grid_size
    if localization is not None or len(encoding) != 2:
        raise TypeError(
            f"decode takes an encoding (S, L) alone, or S and L, got a tuple of {len(encoding)}"
            + (" and L" if localization is not None else "")
        )
    known = getattr(encoding, "grid_size", None)
    if known is not None and grid_size is not None and tuple(known) != tuple(grid_size):
        raise ValueError(f"grid_size {tuple(grid_size)} is not the grid of this encoding, {tuple(known)}: leave it out")
    semantics, localization = encoding
    return semantics, localization, known if grid_size is None else grid_size


def check_encoding(semantics: Tensor, localization: Tensor, hidden_size: int | None = None) -> None:
    """Checks that `S` and `L` fit each other and the model.

    The number of tokens is free: the decoder reads `Z = L S`, and edited encodings have more or fewer than the model.
    So are the sums of rows of `L`. Values are checked on CPU tensors, outside of compilation and export.

    Args:
        semantics: `S`, `(B, r, d)`.
        localization: `L`, `(B, n, r)`.
        hidden_size: Width `d` of the model; None allows any.

    Raises:
        TypeError: if `S` or `L` is not a floating-point tensor.
        ValueError: if shapes do not fit, or a value is NaN or infinite.
    """
    for name, tensor in (("semantics (S)", semantics), ("localization (L)", localization)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point torch.Tensor, got {kind}")
    s_shape, l_shape = tuple(semantics.shape), tuple(localization.shape)
    both = f"S of shape {s_shape} and L of shape {l_shape}"
    if len(s_shape) != 3 or len(l_shape) != 3:
        raise ValueError(f"S must have shape (B, r, d) and L (B, n, r), got {both}")
    if hidden_size is not None and s_shape[2] != hidden_size:
        raise ValueError(f"S must have the model's width {hidden_size} in its last dimension, got {both}")
    if s_shape[0] != l_shape[0]:
        raise ValueError(f"S and L must be of the same batch size, got {both}")
    if s_shape[1] != l_shape[2]:
        hint = ". L looks transposed: pass L.transpose(1, 2)" if s_shape[1] == l_shape[1] else ""
        raise ValueError(f"S and L must have the same number of tokens r, got {both}{hint}")
    if s_shape[0] == 0 or l_shape[1] == 0 or s_shape[1] == 0:
        raise ValueError(f"S and L must have at least one image, one patch and one token, got {both}")
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        _check_finite("S", semantics)
        _check_finite("L", localization)


def _check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError if a value of a tensor on the CPU is NaN or infinite; a GPU would have to be waited for."""
    if tensor.device.type != "cpu":
        return
    low, high = (float(value) for value in tensor.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        kind = "NaN" if math.isnan(low) or math.isnan(high) else "infinite values"
        raise ValueError(
            f"{name} must be finite, got {kind}: float16 may overflow, and rows of a store with an error are NaN"
        )


def check_num_tokens(num_tokens: Any, available: int) -> None:
    """Checks how many tokens of an image to keep.

    Args:
        num_tokens: Number of tokens, from 1 to `available`.
        available: Number of tokens of an image.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range.
    """
    if isinstance(num_tokens, bool) or not isinstance(num_tokens, Integral):
        raise TypeError(f"num_tokens must be an integer from 1 to {available}, got {type(num_tokens).__name__}")
    if not 1 <= int(num_tokens) <= available:
        raise ValueError(f"num_tokens must be from 1 to {available}, the number of tokens, got {num_tokens}")


def resolve_grid_size(num_patches: int, grid_size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the grid of an image's patches as two integers: the given one, else a square.

    Args:
        num_patches: Number `n` of patches.
        grid_size: Rows and columns `(h, w)`; None means a square grid.

    Raises:
        ValueError: if `grid_size` is None and `n` is not a square, or `grid_size` is not a pair with `h w = n`.
    """
    if grid_size is None:
        # Counting up, as `math.isqrt` cannot be traced by torch.compile once sizes vary; a side is rarely above 64.
        side = 1
        while side * side < num_patches:
            side += 1
        if side * side != num_patches:
            raise ValueError(
                f"{num_patches} patches do not form a square grid: pass grid_size=(h, w), which "
                "model.grid_size(height, width) returns for an image's height and width"
            )
        return side, side
    if not isinstance(grid_size, Sequence) or len(grid_size) != 2 or any(int(side) != side for side in grid_size):
        raise ValueError(f"grid_size must be two integers, (h, w), got {grid_size!r}")
    height, width = (int(side) for side in grid_size)
    if height < 1 or width < 1 or height * width != num_patches:
        raise ValueError(f"grid_size must multiply to the {num_patches} patches of L, got {(height, width)}")
    return height, width
