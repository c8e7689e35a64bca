"""Edits of what tokens weigh: drop, keep and swap tokens, and give a region to one.

`S` and the numbers of tokens stay as they are, and each row of `L` sums to 1 afterwards. Rows are renormalized by
`renormalize` of `stellar_hub.modeling.factorization`, in at least float32.
"""

import torch
from torch import Tensor

from stellar_hub.editing.checks import (
    Number,
    Parts,
    Tokens,
    at_least_float32,
    numbers_of,
    one_hot,
    token_mask,
    token_numbers,
    unpack,
)
from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.factorization import renormalize


def drop_tokens(encoding: StellarEncoding, tokens: Tokens) -> StellarEncoding:
    """Takes tokens out of the image: they get a weight of 0 everywhere.

    The other tokens share each patch in proportion to what they had: their weights are divided by their sum. In a patch
    where they had nothing at all, all others that have weight somewhere in the image get equal shares. Tokens that have
    no weight anywhere, such as those dropped before, stay without.

    Args:
        encoding: Encoding of `B` images.
        tokens: A number, or several numbers, which are the same for all images; or an integer tensor `(B, k)` with
            those of each image.

    Returns:
        The encoding with another `L`; `S` is the same tensor.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if there is no such token, or none with any weight would be left.
    """
    parts = unpack(encoding)
    return _without(parts, token_mask(tokens, parts))


def keep_tokens(encoding: StellarEncoding, tokens: Tokens) -> StellarEncoding:
    """Keeps some tokens and drops the others, as `drop_tokens` does.

    Args:
        encoding: Encoding of `B` images.
        tokens: Tokens to keep, as for `drop_tokens`.

    Returns:
        The encoding with another `L`; `S` is the same tensor, so that numbers stay.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if there is no such token, or none of those to keep has any weight.
    """
    parts = unpack(encoding)
    return _without(parts, ~token_mask(tokens, parts))


def swap_tokens(encoding: StellarEncoding, first: int | Tensor, second: int | Tensor) -> StellarEncoding:
    """Exchanges where two tokens are: each gets the map of the other.

    Two columns of `L` change places, and all other values are the same, bit for bit.

    Args:
        encoding: Encoding of `B` images.
        first: Number of a token, or an integer tensor `(B,)` with one for each image.
        second: Number of another token, likewise. If it is the same, nothing changes.

    Returns:
        The encoding with another `L`; `S` is the same tensor.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if there is no such token.
    """
    parts = unpack(encoding)
    one, other = token_numbers(first, parts, "first"), token_numbers(second, parts, "second")
    order = torch.arange(parts.num_tokens, device=one.device).expand(parts.batch_size, -1)
    order = order.scatter(1, one[:, None], other[:, None]).scatter(1, other[:, None], one[:, None])
    return parts.edited(parts.localization.gather(2, order[:, None].expand_as(parts.localization)))


def paint_token(
    encoding: StellarEncoding, token: int | Tensor, region: Tensor, strength: Number = 1.0
) -> StellarEncoding:
    """Gives a region of the image to a token.

    In a patch with the amount `a = region * strength` the token's weight `w` becomes `w + a (1 - w)`, and the others
    are multiplied by what is left, as in `move_token`. Patches with `a = 0` stay the same, bit for bit, and pass no
    gradient to the region or the strength.

    Args:
        encoding: Encoding of `B` images with a grid of `(h, w)` patches.
        token: Number of the token, or an integer tensor `(B,)` with one for each image.
        region: Share of each patch, `(h, w)`, or `(B, h, w)` with one for each image: bool, or numbers in [0, 1].
        strength: How far the token takes the region, in [0, 1]: a number, or a tensor `(B,)`.

    Returns:
        The encoding with another `L`; `S` is the same tensor.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if there is no such token, shapes do not fit, or values are out of range.
    """
    parts = unpack(encoding)
    numbers = token_numbers(token, parts)
    amount = _amounts(region, parts) * numbers_of(strength, parts, "strength", 0, 1)[:, None]  # (B, n)
    before = weights_of(parts, numbers)
    painted = replace_weights(
        parts.localization, one_hot(numbers, parts.num_tokens), torch.lerp(before, torch.ones_like(before), amount)
    )
    return parts.edited(torch.where((amount == 0)[..., None], parts.localization, painted))


def weights_of(parts: Parts, numbers: Tensor) -> Tensor:
    """Returns the column of `L` of one token of each image, `(B, n)`, in at least float32, from its number `(B,)`."""
    index = numbers[:, None, None].expand(-1, parts.localization.shape[1], 1)
    return at_least_float32(parts.localization.gather(2, index)[..., 0])


def replace_weights(localization: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Gives one token of each image new weights; the others share the rest of each row in proportion to what they had.

    Where the others had nothing at all in a row, those of them that have weight somewhere in the image share the rest
    of the row equally. Tokens without weight anywhere stay without. If no other token has any, every row belongs to the
    token, whatever its new weights are, because rows sum to 1.

    Args:
        localization: `L`, `(B, n, r)`.
        chosen: The token of each image, `(B, r)` bool with one True in a row.
        weights: Its new weights in [0, 1], `(B, n)`.

    Returns:
        `L`, `(B, n, r)`, in at least float32.
    """
    others = has_weight(localization) & ~chosen  # (B, r)
    alone = ~others.any(dim=1, keepdim=True)  # (B, 1)
    shares = renormalize(at_least_float32(localization), others | alone)  # all of them if alone: 0 / 0 would be NaN
    weights = torch.where(alone, 1, weights)[..., None]  # (B, n, 1)
    return torch.where(chosen[:, None], weights, shares * (1 - weights))


def has_weight(localization: Tensor) -> Tensor:
    """Returns which tokens have weight in some patch, `(B, r)` bool."""
    return localization.amax(dim=1) > 0


def _without(parts: Parts, dropped: Tensor) -> StellarEncoding:
    """Drops the tokens of a mask `(B, r)`."""
    kept = has_weight(parts.localization) & ~dropped
    empty = (~kept.any(dim=1)).nonzero()
    if len(empty):
        which = f" of image {int(empty[0])}" if parts.batch_size > 1 else ""
        raise ValueError(
            f"all tokens{which} that have any weight would be dropped, got {int(dropped[int(empty[0])].sum())} of "
            f"{parts.num_tokens} to drop: keep at least one"
        )
    shares = renormalize(at_least_float32(parts.localization), kept)
    return parts.edited(shares)


def _amounts(region: Tensor, parts: Parts) -> Tensor:
    """Returns a region as numbers in [0, 1], `(B, n)`, in at least float32."""
    if not isinstance(region, Tensor) or region.is_complex():
        kind = region.dtype if isinstance(region, Tensor) else type(region).__name__
        raise TypeError(f"region must be a tensor of bool or of numbers in [0, 1], got {kind}")
    if (
        region.shape[-2:] != parts.grid
        or region.ndim not in (2, 3)
        or (region.ndim == 3 and len(region) not in (1, parts.batch_size))
    ):
        raise ValueError(
            f"region must have shape {parts.grid} or {(parts.batch_size, *parts.grid)}, as the patches of the image, "
            f"got {tuple(region.shape)}"
        )
    if region.dtype != torch.bool and not bool(((region >= 0) & (region <= 1)).all()):
        raise ValueError("region must lie in [0, 1], got values beyond or NaN: pass a mask, or clamp it")
    working = torch.promote_types(parts.localization.dtype, torch.float32)
    amounts = region.to(working).to(parts.localization.device).flatten(-2)
    return amounts.expand(parts.batch_size, -1)
