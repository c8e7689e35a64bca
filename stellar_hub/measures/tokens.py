"""What sparse tokens are like: how sharp their maps are, and whether two views give the same tokens."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import match_tokens


class MapShape(NamedTuple):
    """Means over all images."""

    sharpness: float  # of the choice of a token at a place, in [0, 1]
    area: float  # share of the image that a token's map covers, in [1/n, 1]
    owning: float  # share of the tokens that are the strongest at some place, in [1/r, 1]


@torch.no_grad()
def map_shape(localization: Tensor) -> MapShape:
    """Measure maps.

    Args:
        localization: `L`, `(B, n, r)`, not negative, rows sum to 1.

    Returns:
        `sharpness` is 1 less the entropy of a row by `log r`: 1 where each place belongs to one token, 0 where to all
        alike. `area` is `exp` of the entropy of a column, scaled to sum to 1, by `n`: 1/n for a map at one place, 1
        for a blank one. `owning` counts tokens that win a place. Good is high sharpness, an area near `1/r`, and
        owning near 1: tokens share out the image.
    """
    maps = localization.double()
    places, tokens = maps.shape[1:]
    row_entropy = torch.special.entr(maps).sum(dim=2) / (math.log(tokens) if tokens > 1 else 1)
    columns = maps / maps.sum(dim=1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    area = torch.special.entr(columns).sum(dim=1).exp() / places  # (B, r)
    owns = torch.zeros(maps.shape[0], tokens, dtype=torch.bool, device=maps.device)
    owns.scatter_(1, maps.argmax(dim=2), True)
    return MapShape(1 - row_entropy.mean().item(), area.mean().item(), owns.double().mean().item())


class TokenStability(NamedTuple):
    """Means over all tokens of all images."""

    matched: float  # cosine of matched tokens, in [-1, 1]
    unmatched: float  # cosine of all other pairs of the two views, in [-1, 1]
    same_index: float  # share of tokens matched to the token of the same index, in [0, 1]


@torch.no_grad()
def token_stability(first: Tensor, second: Tensor) -> TokenStability:
    """Compare the tokens of two views of the same images.

    Args:
        first: `(B, r, d)`.
        second: `(B, r, d)`, of other views of the same images.

    Returns:
        Good is `matched` near 1 and well above `unmatched`; where the two are alike, all tokens are.
    """
    index, _ = match_tokens(first, second)  # (B, r)
    cosine = F.normalize(first.double(), dim=-1) @ F.normalize(second.double(), dim=-1).mT  # (B, r, r)
    matched = cosine.gather(2, index[..., None])[..., 0]  # (B, r)
    pairs = cosine.numel() - matched.numel()
    others = (cosine.sum() - matched.sum()).item() / pairs if pairs else 0.0
    own = torch.arange(first.shape[1], device=index.device)
    return TokenStability(matched.mean().item(), others, (index == own).double().mean().item())
