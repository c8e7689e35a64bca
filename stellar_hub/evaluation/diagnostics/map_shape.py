"""How sharp the localization maps are, and how much of a picture each covers: entropies of `L` (arXiv 2602.01905)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MapShape(NamedTuple):
    """Means over all pictures."""

    sharpness: float  # of the choice of a token at a place, in [0, 1]
    area: float  # share of the picture that a token's map covers, in [1/n, 1]
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
        owning near 1: tokens share out the picture.
    """
    maps = localization.double()
    places, tokens = maps.shape[1:]
    row_entropy = torch.special.entr(maps).sum(dim=2) / (math.log(tokens) if tokens > 1 else 1)
    columns = maps / maps.sum(dim=1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    area = torch.special.entr(columns).sum(dim=1).exp() / places  # (B, r)
    owns = torch.zeros(maps.shape[0], tokens, dtype=torch.bool, device=maps.device)
    owns.scatter_(1, maps.argmax(dim=2), True)
    return MapShape(1 - row_entropy.mean().item(), area.mean().item(), owns.double().mean().item())
