"""`L` as images: maps in the original's pixels, and the original overlaid with them, by Pillow and torch alone."""

import colorsys
import operator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .input_checks import resolve_grid_size
from .safe_text import one_line

ROWS_AT_A_TIME = 256


def unpack_maps(
    localization: Tensor | tuple[Tensor, Tensor], grid_size: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int] | None]:
    """Returns `L` and its grid, those of an encoding if one is given.

    Args:
        localization: `L`, or a whole encoding `(S, L)`.
        grid_size: Rows and columns of the patches; None means those of the encoding, if it knows them.

    Raises:
        ValueError: if the grid given is not the encoding's.
    """
    if not isinstance(localization, tuple):
        return localization, grid_size
    known = getattr(localization, "grid_size", None)
    if known is not None and grid_size is not None and tuple(known) != tuple(grid_size):
        raise ValueError(
            f"the encoding has the grid {tuple(known)}, and the image with this processor {tuple(grid_size)}: encode "
            "the image with pixel_values of this processor"
        )
    return localization[1], known if grid_size is None else grid_size


def maps_of_image(localization: Tensor | tuple[Tensor, Tensor], grid: tuple[int, int]) -> Tensor:
    """Returns `L` of one image, `(n, r)`.

    Args:
        localization: `L`, `(n, r)` or `(1, n, r)`, or a whole encoding of one image.
        grid: Rows and columns of the patches that the image has.

    Raises:
        ValueError: if `L` does not fit the grid.
    """
    values, _ = unpack_maps(localization, grid)
    maps = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    if maps.ndim != 2 or maps.shape[0] != grid[0] * grid[1]:
        raise ValueError(
            f"localization must have shape (n, r) with n = {grid[0] * grid[1]}, for the grid {grid} of this image, "
            f"got {tuple(values.shape)}: encode the image with pixel_values of this processor"
        )
    return maps


def token_colors(num_tokens: int) -> Tensor:
    """Returns a distinct colour for each token, `(num_tokens, 3)` in [0, 1]: even hues, each dark and light."""
    num_hues = (num_tokens + 1) // 2
    colors = [
        colorsys.hls_to_rgb((index // 2) / num_hues, (0.40, 0.72)[index % 2], (0.90, 0.80)[index % 2])
        for index in range(num_tokens)
    ]
    return torch.tensor(colors)


def resample_maps(
    localization: Tensor,
    original_size: tuple[int, int],
    crop_box: tuple[float, float, float, float],
    grid_size: tuple[int, int] | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Resamples the maps of one image's tokens to the original's pixels, bilinearly.

    Each pixel's centre is mapped through the crop box into the grid, so that fractional boxes stay exact.

    Args:
        localization: `L` of one image, `(n, r)`.
        original_size: Height and width `(H, W)` of the original in pixels.
        crop_box: `(top, left, bottom, right)` of the part that the model saw, in the original's pixels.
        grid_size: Rows and columns `(h, w)` of the patches; None means a square grid.
        rows: Rows of pixels to compute; None means all.

    Returns:
        Maps `(r, H, W)`, float32 in [0, 1], with 0 outside of the crop box.
    """
    height, width = (int(side) for side in original_size)
    grid = resolve_grid_size(localization.shape[0], grid_size)
    top, left, bottom, right = crop_box
    first, last, _ = (rows or slice(None)).indices(height)
    y = (torch.arange(first, last, dtype=torch.float64) + 0.5 - top) / (bottom - top) * 2 - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - left) / (right - left) * 2 - 1
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None].float()  # (1, rows, W, 2), x first
    maps = localization.detach().float().cpu().t().unflatten(1, grid)[None]  # (1, r, h, w)
    sampled = F.grid_sample(maps, points, mode="bilinear", padding_mode="border", align_corners=False)[0]
    inside = (y.abs() <= 1)[:, None] & (x.abs() <= 1)[None]
    return sampled * inside


def overlay_token(
    image: Tensor,
    localization: Tensor,
    token: int,
    crop_box: tuple[float, float, float, float],
    grid: tuple[int, int],
    value_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Draws one token's map over an image: bright and tinted where the token is, dim elsewhere.

    Args:
        image: The original, `(3, H, W)`.
        localization: `L` of the image, `(n, r)`.
        token: Number of the token.
        crop_box: `(top, left, bottom, right)` of the part that the model saw, in the original's pixels.
        grid: Rows and columns `(h, w)` of the patches.
        value_range: Values of the map that are drawn dim and bright; the same for all tokens that are compared. None
            takes the lowest and the highest value of the token's own map.

    Raises:
        TypeError: if the token is not a whole number.
        ValueError: if the token does not exist.
    """
    num_tokens = localization.shape[1]
    token = _place_of(token, num_tokens)
    chosen = localization[:, token : token + 1].detach().float()
    low, high = value_range or (float(chosen.min()), float(chosen.max()))
    weight = resample_maps(chosen, (image.shape[1], image.shape[2]), crop_box, grid)
    weight = ((weight - low) / max(high - low, 1e-6)).clamp(0, 1)
    color = token_colors(num_tokens)[token][:, None, None]
    base = as_float(image)
    shown = torch.lerp(base, color.expand_as(base), 0.5 * weight)
    dim = base.mean(dim=0, keepdim=True) * 0.35
    return to_pil(torch.lerp(dim.expand_as(shown), shown, weight))


def _place_of(token: Any, num_tokens: int) -> int:
    """Returns the number of a token from 0 on; negative numbers count from the last token."""
    allowed = f"token must be a whole number from 0 to {num_tokens - 1}"
    try:
        number = operator.index(token)
    except TypeError:
        raise TypeError(f"{allowed}, got {one_line(repr(token), 100)}") from None
    if not -num_tokens <= number < num_tokens:
        raise ValueError(f"{allowed}, got {number}")
    return number % num_tokens


def overlay_assignment(
    image: Tensor, localization: Tensor, crop_box: tuple[float, float, float, float], grid: tuple[int, int]
) -> Image.Image:
    """Draws the hard assignment over an image: each pixel has the colour of its strongest token.

    Args:
        image: The original, `(3, H, W)`.
        localization: `L` of the image, `(n, r)`.
        crop_box: `(top, left, bottom, right)` of the part that the model saw, in the original's pixels.
        grid: Rows and columns `(h, w)` of the patches.
    """
    base = as_float(image)
    colors = token_colors(localization.shape[1])
    size = (image.shape[1], image.shape[2])
    out = torch.empty_like(base)
    # A few rows at a time: the maps of all tokens would take gigabytes for a large photograph.
    for start in range(0, size[0], ROWS_AT_A_TIME):
        rows = slice(start, min(start + ROWS_AT_A_TIME, size[0]))
        strength, winner = resample_maps(localization, size, crop_box, grid, rows).max(dim=0)
        band = base[:, rows]
        grey = band.mean(dim=0, keepdim=True)
        painted = colors[winner].permute(2, 0, 1) * 0.55 + grey * 0.45
        out[:, rows] = torch.where(strength > 0, painted, grey * 0.35)
    return to_pil(out)


def as_float(image: Tensor) -> Tensor:
    """Converts uint8 or floats, `(3, H, W)`, to float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)


def to_pil(image: Tensor) -> Image.Image:
    """Converts floats in [0, 1], `(3, H, W)`, to a PIL image."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
