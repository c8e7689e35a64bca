"""Where tokens are: the centre of a token's map, the token of a place, and places in pixels.

Places are in patches: `(row, column)`, floats, and `(0, 0)` is the centre of the first patch, at the top left. The
patch in row `i` and column `j` covers `i - 0.5` to `i + 0.5` and `j - 0.5` to `j + 0.5`.
"""

import torch
from torch import Tensor

from stellar_hub.editing.checks import Number, Parts, numbers_of, token_numbers, unpack
from stellar_hub.modeling import StellarEncoding


def token_center(encoding: StellarEncoding, token: int | Tensor) -> Tensor:
    """Returns the centre of mass of a token's map.

    Args:
        encoding: Encoding of `B` images.
        token: Number of the token, or an integer tensor `(B,)` with one for each image.

    Returns:
        Rows and columns in patches, `(B, 2)`, in at least float32. A token that has no weight anywhere, such as one
        that was dropped, gets the centre of the grid.

    Raises:
        TypeError: if the number is not an integer.
        ValueError: if there is no such token.
    """
    parts = unpack(encoding)
    return torch.stack(center_of(map_of(parts, token_numbers(token, parts))), dim=1)


def token_at(encoding: StellarEncoding, row: Number, column: Number) -> Tensor:
    """Returns the strongest token of the patch that a place is in.

    Args:
        encoding: Encoding of `B` images with a grid of `(h, w)` patches.
        row: Row in patches, from -0.5 to `h - 0.5`: a number, or a tensor `(B,)` with one for each image.
        column: Column in patches, from -0.5 to `w - 0.5`, likewise.

    Returns:
        Numbers of tokens, `(B,)` int64.

    Raises:
        TypeError: if a position is not a number.
        ValueError: if the place is outside of the grid.
    """
    parts = unpack(encoding)
    height, width = parts.grid
    rows = _patches(numbers_of(row, parts, "row", -0.5, height - 0.5), height)
    columns = _patches(numbers_of(column, parts, "column", -0.5, width - 0.5), width)
    chosen = (rows * width + columns)[:, None, None].expand(-1, 1, parts.num_tokens)
    return parts.localization.gather(1, chosen)[:, 0].argmax(dim=-1)


def place_of_pixel(x: float, y: float, patch_size: int) -> tuple[float, float]:
    """Returns the place, `(row, column)` in patches, of a pixel of the image that the model sees.

    Args:
        x: Column of the pixel, from 0 at the left. The values 0 and 1 are the centres of the first and second pixel.
        y: Row of the pixel, from 0 at the top.
        patch_size: Side of a patch in pixels.
    """
    return (y + 0.5) / patch_size - 0.5, (x + 0.5) / patch_size - 0.5


def map_of(parts: Parts, numbers: Tensor) -> Tensor:
    """Returns the map of one token of each image, `(B, h, w)`, in at least float32, from its number `(B,)`."""
    index = numbers[:, None, None, None].expand(-1, 1, *parts.grid)
    return parts.maps().gather(1, index)[:, 0]


def center_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns row and column, `(B,)` each, of the centres of mass of maps `(B, h, w)`; the middle for empty maps."""
    return _center_along(maps.sum(dim=2)), _center_along(maps.sum(dim=1))


def _center_along(profile: Tensor) -> Tensor:
    """Returns the centre of mass, `(B,)`, of profiles `(B, size)`."""
    size = profile.shape[1]
    positions = torch.arange(size, device=profile.device, dtype=profile.dtype)
    mass = profile.sum(dim=1)
    weighted = (profile * positions).sum(dim=1)
    return torch.where(mass > 0, weighted / torch.where(mass > 0, mass, 1), (size - 1) / 2)


def _patches(positions: Tensor, size: int) -> Tensor:
    """Returns the patch, int64, that each position along an axis of `size` patches is in."""
    return (positions + 0.5).floor().long().clamp(0, size - 1)
