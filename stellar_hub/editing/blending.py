"""Two images in one encoding: both at once with weights, or a point on the way from one to the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.editing.checks import Number, Parts, at_least_float32, check_pair, numbers_of, unpack
from stellar_hub.matching import match_tokens
from stellar_hub.modeling import StellarEncoding

STRAIGHT = 1 - 1e-6  # beyond this cosine the arc between two vectors is a line, or has no direction
TINY = 1e-30  # a length that is not 0


def blend_encodings(first: StellarEncoding, second: StellarEncoding, weight: Number = 0.5) -> StellarEncoding:
    """Puts two images over each other: the tokens of both, with weights.

    `L` of the first is multiplied by `1 - weight`, that of the second by `weight`, and the two stand side by side. So
    the dense map that the decoder reads is exactly `Z = (1 - weight) Z1 + weight Z2`, up to rounding.

    Args:
        first: Encoding of `B` images with `r` tokens.
        second: Encoding by the same model, of `B` images or of one, with the same grid and `s` tokens.
        weight: Weight of the second, in [0, 1]: a number, or a tensor `(B,)`.

    Returns:
        An encoding with `r + s` tokens: those of the first keep their numbers, and token `i` of the second is `r + i`.
        The second is converted to the type and the device of the first.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if widths, grids or numbers of images differ, or the weight is out of range.
    """
    one, other = _both(first, second)
    share = numbers_of(weight, one, "weight", 0, 1)[:, None, None]
    maps = [at_least_float32(one.localization) * (1 - share), at_least_float32(other.localization) * share]
    return one.edited(torch.cat(maps, dim=2), torch.cat([one.semantics, other.semantics], dim=1))


def interpolate_encodings(first: StellarEncoding, second: StellarEncoding, fraction: Number) -> StellarEncoding:
    """Goes a part of the way from one image to another: tokens change what they are and where they are.

    Each token of the first is matched with one of the second, one to one: the pairs are taken from the transport plan
    of `stellar_hub.matching` on tokens of length 1, the surest pair first. `S` of a pair is interpolated by `slerp`,
    and their columns of `L` linearly, so that rows sum to 1. If one has more tokens, those without a partner keep their
    `S`, and their weight grows from 0 or falls to 0.

    Args:
        first: Encoding of `B` images with `r` tokens.
        second: Encoding by the same model, of `B` images or of one, with the same grid and `s` tokens.
        fraction: 0 gives the first, 1 the second: a number in [0, 1], or a tensor `(B,)`, which gets gradients.

    Returns:
        An encoding with `max(r, s)` tokens, numbered as those of the first.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if widths, grids or numbers of images differ, or the fraction is out of range.
    """
    one, other = _both(first, second)
    share = numbers_of(fraction, one, "fraction", 0, 1)
    size = max(one.num_tokens, other.num_tokens)
    partner = one_to_one(one.semantics, other.semantics)  # (B, size)
    own, theirs = _padded(one, size), _ordered(_padded(other, size), partner)
    # A token without a partner is interpolated with itself.
    new = (torch.arange(size, device=partner.device) >= one.num_tokens)[:, None]
    gone = (partner >= other.num_tokens)[..., None]
    start = torch.where(new, theirs.semantics, own.semantics)
    end = torch.where(gone, own.semantics, theirs.semantics)
    maps = torch.lerp(at_least_float32(own.localization), at_least_float32(theirs.localization), share[:, None, None])
    return one.edited(maps, slerp(start, end, share[:, None]))


def slerp(first: Tensor, second: Tensor, fraction: Number) -> Tensor:
    """Interpolates vectors on the sphere: their direction turns at a constant speed, and their length changes linearly.

    Vectors that point the same way, or in opposite directions, are interpolated linearly, and so are those of length 0:
    there is no arc between them, or no single one.

    Args:
        first: Vectors of shape `(..., d)`.
        second: Vectors of the same shape.
        fraction: 0 gives the first, 1 the second: a number in [0, 1], or a tensor that broadcasts to the shape `(...)`.

    Returns:
        Vectors of shape `(..., d)` in the type of the first, computed in at least float32.

    Raises:
        ValueError: if the shapes differ, or the fraction is out of range.
    """
    if first.shape != second.shape or first.ndim == 0:
        raise ValueError(
            f"first and second must be vectors of one shape (..., d), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    start, end = at_least_float32(first), at_least_float32(second).to(first.device)
    share = _shares(fraction, start)
    lengths = [x.norm(dim=-1, keepdim=True) for x in (start, end)]
    ways = [x / length.clamp_min(TINY) for x, length in zip((start, end), lengths, strict=True)]
    cosine = (ways[0] * ways[1]).sum(dim=-1, keepdim=True)
    straight = (cosine.abs() > STRAIGHT) | (lengths[0] <= TINY) | (lengths[1] <= TINY)
    angle = torch.acos(torch.where(straight, 0, cosine))  # where it is not used, an angle with a finite gradient
    turned = (torch.sin((1 - share) * angle) * ways[0] + torch.sin(share * angle) * ways[1]) / torch.sin(angle)
    arc = torch.lerp(lengths[0], lengths[1], share) * turned
    return torch.where(straight, torch.lerp(start, end, share), arc).to(first.dtype)


@torch.no_grad()
def one_to_one(first: Tensor, second: Tensor) -> Tensor:
    """Matches the tokens of two images one to one, the surest pair first.

    Args:
        first: Tokens `(B, r, d)`.
        second: Tokens `(B, s, d)`.

    Returns:
        A permutation of `max(r, s)` numbers for each image, `(B, max(r, s))` int64: the number in the second of the
        partner of each token of the first. Numbers from `r` or `s` on stand for no token.
    """
    size = max(first.shape[1], second.shape[1])
    _, plan = match_tokens(F.normalize(at_least_float32(first), dim=-1), F.normalize(at_least_float32(second), dim=-1))
    plan = F.pad(plan, (0, size - plan.shape[2], 0, size - plan.shape[1]), value=-1)  # (B, size, size)
    partner = torch.zeros(plan.shape[:2], dtype=torch.int64, device=plan.device)
    numbers = torch.arange(size, device=plan.device)
    for _ in range(size):
        best = plan.flatten(1).argmax(dim=1, keepdim=True)  # (B, 1)
        row, column = best // size, best % size
        partner = partner.scatter(1, row, column)
        taken = (numbers == row)[:, :, None] | (numbers == column)[:, None]
        plan = plan.masked_fill(taken, -torch.inf)
    return partner


def _both(first: StellarEncoding, second: StellarEncoding) -> tuple[Parts, Parts]:
    """Returns the parts of two encodings that fit each other; the second with batch, type and device of the first."""
    one, other = unpack(first), unpack(second)
    check_pair(one, other)
    size = one.batch_size
    return one, Parts(
        other.semantics.to(one.semantics).expand(size, -1, -1),
        other.localization.to(one.localization).expand(size, -1, -1),
        one.grid,
    )


def _padded(parts: Parts, size: int) -> Parts:
    """Returns an encoding with further tokens, which have no weight, up to `size` of them."""
    more = size - parts.num_tokens
    return Parts(F.pad(parts.semantics, (0, 0, 0, more)), F.pad(parts.localization, (0, more)), parts.grid)


def _ordered(parts: Parts, order: Tensor) -> Parts:
    """Returns an encoding whose tokens are in another order, `(B, r)` int64."""
    return Parts(
        parts.semantics.gather(1, order[..., None].expand_as(parts.semantics)),
        parts.localization.gather(2, order[:, None].expand_as(parts.localization)),
        parts.grid,
    )


def _shares(fraction: Number, vectors: Tensor) -> Tensor:
    """Returns a fraction in [0, 1] as a tensor that broadcasts to vectors `(..., d)`."""
    share = torch.as_tensor(fraction)
    if share.is_complex() or not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError("fraction must lie in [0, 1], got values beyond or NaN: clamp it")
    return share.to(vectors)[..., None]
