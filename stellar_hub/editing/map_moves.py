"""Edits of where a token is: move, scale or mirror its map. `S` and all numbers stay as they are.

A map is resampled bilinearly, and has no weight outside of the image. What it leaves goes to the other tokens, and what
it covers is taken from them: each row of `L` sums to 1, and the others keep their proportions (`replace_weights`).
"""

from typing import Literal

import torch
from torch import Tensor

from stellar_hub.editing.checks import Number, Parts, Place, numbers_of, one_hot, places_of, token_numbers, unpack
from stellar_hub.editing.places import center_of, map_of
from stellar_hub.editing.token_weights import replace_weights
from stellar_hub.modeling import StellarEncoding

SMALLEST, LARGEST = 0.01, 100.0  # factors of `scale_token`: beyond, a map is a point or one value everywhere
AXES = ("horizontal", "vertical")


def move_token(encoding: StellarEncoding, token: int | Tensor, rows: Number, columns: Number) -> StellarEncoding:
    """Moves a token: its map is shifted.

    Each row of `L` gets the token's new weight `w`. The weights of the others are multiplied by `(1 - w)` divided by
    their sum, so that the row sums to 1. In a patch where the others had nothing at all, those that have weight
    somewhere in the image share the rest equally; if there is no other token with weight, each row stays the token's.

    Args:
        encoding: Encoding of `B` images.
        token: Number of the token, or an integer tensor `(B,)` with one for each image.
        rows: Patches to move down; negative is up. A number, or a tensor `(B,)`, which gets gradients.
        columns: Patches to move right; negative is left. Likewise.

    Returns:
        The encoding with another `L`; `S` is the same tensor. If rows and columns are the number 0, `L` is too. A map
        that is moved out of the image has no weight any more, as after `drop_tokens`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there is no such token, or an offset is NaN or infinite.
    """
    parts = unpack(encoding)
    numbers = token_numbers(token, parts)
    down, right = numbers_of(rows, parts, "rows"), numbers_of(columns, parts, "columns")
    if not isinstance(rows, Tensor) and not isinstance(columns, Tensor) and rows == columns == 0:
        return parts.edited(parts.localization)
    return _with_map(parts, numbers, shift(map_of(parts, numbers), down, right))


def scale_token(
    encoding: StellarEncoding, token: int | Tensor, factor: Number, center: Place | None = None
) -> StellarEncoding:
    """Enlarges or shrinks a token: its map is scaled about a point.

    Rows of `L` are renormalized as by `move_token`. The values of the map stay, so its area grows by `factor` squared.

    Args:
        encoding: Encoding of `B` images.
        token: Number of the token, or an integer tensor `(B,)` with one for each image.
        factor: 2 makes the map twice as high and wide, 0.5 half. A number from 0.01 to 100, or a tensor `(B,)`, which
            gets gradients.
        center: The point that stays, `(row, column)` in patches, or a tensor `(B, 2)`. None takes the centre of mass of
            the map.

    Returns:
        The encoding with another `L`; `S` is the same tensor. If the factor is the number 1, `L` is too.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there is no such token, or a value is NaN, infinite or out of range.
    """
    parts = unpack(encoding)
    numbers = token_numbers(token, parts)
    factors = numbers_of(factor, parts, "factor", SMALLEST, LARGEST)[:, None]
    maps = map_of(parts, numbers)
    row, column = center_of(maps) if center is None else places_of(center, parts, "center")
    if not isinstance(factor, Tensor) and factor == 1:
        return parts.edited(parts.localization)
    row, column = row[:, None], column[:, None]
    height, width = (positions(size, maps) for size in parts.grid)
    scaled = sample(maps, row + (height - row) / factors, column + (width - column) / factors)
    return _with_map(parts, numbers, scaled)


def mirror_token(
    encoding: StellarEncoding, token: int | Tensor, axis: Literal["horizontal", "vertical"] = "horizontal"
) -> StellarEncoding:
    """Mirrors a token about its centre of mass.

    The mirror is at the middle or at the edge of a patch, whichever is next to the centre of mass, so that the values
    of the map change places and none is interpolated. Rows of `L` are renormalized as by `move_token`. What would be
    outside of the image is lost, so a second mirror brings back all that stayed inside.

    Args:
        encoding: Encoding of `B` images.
        token: Number of the token, or an integer tensor `(B,)` with one for each image.
        axis: "horizontal" exchanges left and right, "vertical" top and bottom.

    Returns:
        The encoding with another `L`; `S` is the same tensor.

    Raises:
        TypeError: if the number is not an integer.
        ValueError: if there is no such token, or the axis is another.
    """
    if axis not in AXES:
        raise ValueError(f'axis must be "horizontal" or "vertical", got {axis!r}')
    parts = unpack(encoding)
    numbers = token_numbers(token, parts)
    maps = map_of(parts, numbers)
    row, column = (torch.round(2 * center.detach())[:, None] for center in center_of(maps))  # twice the centre
    height, width = (positions(size, maps).expand(parts.batch_size, -1) for size in parts.grid)
    mirrored = sample(maps, height, column - width) if axis == "horizontal" else sample(maps, row - height, width)
    return _with_map(parts, numbers, mirrored)


def shift(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Moves maps `(B, h, w)` down and right by `(B,)` patches each."""
    height, width = (positions(size, maps) for size in maps.shape[1:])
    return sample(maps, height - rows[:, None], width - columns[:, None])


def sample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Reads maps bilinearly at rows `(B, h')` and columns `(B, w')`, with 0 outside.

    Args:
        maps: Maps `(B, h, w)`.
        rows: Row to read for each row of the result, in patches.
        columns: Column to read for each column of the result.

    Returns:
        Maps `(B, h', w')`. Whole rows and columns give the very values of the maps.
    """
    # Sums of products, not matrix products: those may run in bfloat16 (autocast) or TF32.
    down = (_hats(rows, maps.shape[1])[..., None] * maps[:, None]).sum(dim=2)  # (B, h', w)
    return (_hats(columns, maps.shape[2])[:, None] * down[:, :, None]).sum(dim=3)


def positions(size: int, like: Tensor) -> Tensor:
    """Returns 0 to `size - 1` in type and device of a tensor."""
    return torch.arange(size, device=like.device, dtype=like.dtype)


def _hats(sources: Tensor, size: int) -> Tensor:
    """Returns the weight of each of `size` values in values that are read at `sources`, `(B, k)` -> `(B, k, size)`."""
    return (1 - (sources[..., None] - positions(size, sources)).abs()).clamp_min(0)


def _with_map(parts: Parts, numbers: Tensor, maps: Tensor) -> StellarEncoding:
    """Returns the encoding in which one token of each image has the map `(B, h, w)`."""
    chosen = one_hot(numbers, parts.num_tokens)
    return parts.edited(replace_weights(parts.localization, chosen, maps.flatten(1).clamp(0, 1)))
