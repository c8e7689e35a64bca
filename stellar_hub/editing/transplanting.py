"""Putting a token of one image into another: what it is, `S`, and where it is, its map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.editing.checks import Parts, Place, check_pair, one_hot, places_of, token_numbers, unpack
from stellar_hub.editing.map_moves import positions, shift
from stellar_hub.editing.places import center_of, map_of
from stellar_hub.editing.token_weights import replace_weights
from stellar_hub.modeling import StellarEncoding


def transplant_token(
    encoding: StellarEncoding,
    source: StellarEncoding,
    source_token: int | Tensor,
    position: Place | None = None,
    replace: int | Tensor | None = None,
) -> StellarEncoding:
    """Puts a token of another image into each image: its `S`, and its map.

    The map keeps its values. Where the grids differ, it is resampled bilinearly (averaged where it shrinks), so that it
    covers the same share of the image. In each row of `L` the other tokens share what the new one leaves, as in
    `move_token`; with `replace`, what the replaced token had is shared too.

    Args:
        encoding: Encoding of `B` images, which get the token.
        source: Encoding by the same model, of `B` images or of one, which gives the token to all.
        source_token: Number of the token in `source`, or an integer tensor with one for each image of `source`.
        position: Where the centre of mass of the map shall be, `(row, column)` in patches of `encoding`, or a tensor
            `(B, 2)`. None leaves the map where it is in its image.
        replace: Number of the token to replace, or an integer tensor `(B,)`. None appends the token, so that the
            encoding has `r + 1` tokens and the new one the number `r`.

    Returns:
        An encoding of `r` or `r + 1` tokens. `S` of the other tokens is the same, bit for bit. `source` is converted to
        the type and the device of `encoding`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the widths or the numbers of images differ, there is no such token, or a position is not finite.
    """
    parts, donor = unpack(encoding), unpack(source)
    check_pair(parts, donor, same_grid=False)
    numbers = token_numbers(source_token, donor, "source_token")
    maps = resample(map_of(donor, numbers), parts.grid).to(parts.localization.device, parts.maps().dtype)
    maps = maps.expand(parts.batch_size, -1, -1)
    if position is not None:
        row, column = places_of(position, parts, "position")
        center = center_of(maps)
        maps = shift(maps, row - center[0], column - center[1])
    index = numbers[:, None, None].expand(-1, 1, donor.semantics.shape[2])
    sparse = donor.semantics.gather(1, index).to(parts.semantics).expand(parts.batch_size, -1, -1)  # (B, 1, d)
    target, chosen = _with_token(parts, sparse, replace)
    return target.edited(replace_weights(target.localization, chosen, maps.flatten(1).clamp(0, 1)))


def resample(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resamples maps `(B, h, w)` to another grid: bilinear where it is finer, averages where it is coarser."""
    if tuple(maps.shape[1:]) == grid:
        return maps
    rows, columns = (_fractions(old, new, maps) for old, new in zip(maps.shape[1:], grid, strict=True))
    down = (rows[..., None] * maps[:, None]).sum(dim=2)  # (B, h', w)
    return (columns * down[:, :, None]).sum(dim=3)


def _fractions(old: int, new: int, like: Tensor) -> Tensor:
    """Returns the share of each of `old` values along an axis in each of `new` values, `(new, old)`; rows sum to 1."""
    step = old / new
    starts, values = positions(new, like)[:, None] * step, positions(old, like)
    if step > 1:  # the share of each old patch that a new one covers, so that areas stay exactly
        covered = torch.minimum(starts + step, values + 1) - torch.maximum(starts, values)
        return covered.clamp_min(0) / step
    hats = (1 - (starts + step / 2 - 0.5 - values).abs()).clamp_min(0)
    return hats / hats.sum(dim=1, keepdim=True)


def _with_token(parts: Parts, sparse: Tensor, replace: int | Tensor | None) -> tuple[Parts, Tensor]:
    """Returns the encoding with a token `(B, 1, d)`, still without weight if it is new, and the token's mask."""
    if replace is not None:
        chosen = one_hot(token_numbers(replace, parts, "replace"), parts.num_tokens)
        return parts._replace(semantics=torch.where(chosen[..., None], sparse, parts.semantics)), chosen
    grown = Parts(torch.cat([parts.semantics, sparse], dim=1), F.pad(parts.localization, (0, 1)), parts.grid)
    chosen = torch.zeros(parts.batch_size, grown.num_tokens, dtype=torch.bool, device=sparse.device)
    chosen[:, -1] = True
    return grown, chosen
