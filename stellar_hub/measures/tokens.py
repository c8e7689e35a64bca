"""Measures of sparse tokens: how alike two sets are, how stable they are between views, how sharp their maps are."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import check_sinkhorn, match_tokens, transport_plan
from stellar_hub.measures.spread import TINY, normalized_entropy

PAIRS_AT_A_TIME = 1 << 12  # pairs of sets whose plans are in memory together
QUERY_TOKENS_AT_A_TIME = 1 << 10
NUMBERS_AT_A_TIME = {"cpu": 1 << 19}  # numbers that `maxsim` has in memory together; so few stay in a core's cache
OTHER_NUMBERS_AT_A_TIME = 1 << 26  # on other devices
SHORTEST = 1e-12  # length of a vector that has a direction
COSTS = ("cosine", "euclidean")


def maxsim(queries: Tensor, others: Tensor) -> Tensor:
    """Compares each set of tokens with each other set: the sum of the highest cosines of a query's tokens.

    Each token of a query takes the token of the other set that is most similar to it, and may share it with others.
    This is the late interaction of ColBERT (arXiv 2004.12832), which vector databases call MaxSim. It is not symmetric,
    and it is not divided by the number of tokens.

    Args:
        queries: Sets of tokens of shape `(Q, r, d)`, of any real type. They are compared in float32. The lengths of
            tokens do not matter, so that integers need no scales.
        others: Sets of tokens of shape `(N, t, d)`, on the same device.

    Returns:
        Similarities of shape `(Q, N)`, float32, in [-r, r]: `sum_i max_j cos_ij`. The order of tokens does not matter.
        The cosine with a token of zeros is 0. Where a query or another set has a value that is not finite, the
        similarity is NaN.

    Raises:
        ValueError: if shapes do not fit.
    """
    _check_sets(queries, others, "others")
    blocks = F.normalize(queries.float(), dim=-1).split(max(1, QUERY_TOKENS_AT_A_TIME // queries.shape[1]))
    for_each_set = others.shape[1] * max(queries.shape[2], blocks[0].shape[:2].numel())
    at_a_time = NUMBERS_AT_A_TIME.get(others.device.type, OTHER_NUMBERS_AT_A_TIME)
    chunks = others.split(max(1, at_a_time // for_each_set))
    return torch.cat([_maxsim_of_units(blocks, sets) for sets in chunks], dim=1)


def _maxsim_of_units(blocks: Sequence[Tensor], sets: Tensor) -> Tensor:
    """Compares blocks of sets of unit vectors, `(q, r, d)` each, with other sets `(n, t, d)`; returns `(Q, n)`."""
    tokens = sets.flatten(0, 1).float()
    lengths = torch.linalg.vector_norm(tokens, dim=-1).clamp(min=SHORTEST).view(*sets.shape[:2], 1)
    sums = []
    for units in blocks:
        products = (tokens @ units.flatten(0, 1).T).view(*sets.shape[:2], units.shape[:2].numel())
        # The lengths divide the products and not the tokens, which are many more numbers.
        highest = (products / lengths).amax(dim=1)
        sums.append(highest.view(len(sets), *units.shape[:2]).sum(dim=2))
    return torch.cat(sums, dim=1).T


def set_similarity(
    queries: Tensor, bank: Tensor, epsilon: float = 0.1, num_iters: int = 5, cost: str = "cosine"
) -> Tensor:
    """Compares each set of tokens with each set of a bank: the mean cosine of the tokens that transport matches.

    The matching is that of training (arXiv 2602.01905; `stellar_hub.matching`), on tokens scaled to length 1. Each
    token takes part once, so a token that only one of two images has lowers their similarity.

    Args:
        queries: Sets of tokens of shape `(Q, r, d)`. The lengths of tokens do not matter.
        bank: Sets of tokens of shape `(N, t, d)`.
        epsilon: Weight of the entropy in the matching, above 0. Small values give a sharper matching.
        num_iters: Number of Sinkhorn iterations, at least 1.
        cost: Cost of matching two tokens: "cosine" is 1 minus their cosine, "euclidean" is the distance of their unit
            vectors.

    Returns:
        Similarities of shape `(Q, N)`, float32, in [-1, 1]: `sum_ij plan_ij cos_ij / sum_ij plan_ij`. The order of
        tokens does not matter.

    Raises:
        ValueError: if shapes do not fit, or a parameter is out of range.
    """
    _check_sets(queries, bank, "bank")
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}")
    check_sinkhorn(epsilon, num_iters)
    unit_bank = F.normalize(bank.float(), dim=-1)
    rows = [torch.empty(0, len(bank), device=queries.device)]
    for query in F.normalize(queries.float(), dim=-1):
        chunks = unit_bank.split(PAIRS_AT_A_TIME)
        rows.append(torch.cat([_similarity_of_units(query, sets, epsilon, num_iters, cost) for sets in chunks])[None])
    return torch.cat(rows)


def _check_sets(queries: Tensor, others: Tensor, name: str) -> None:
    """Raises ValueError unless two batches of sets can be compared."""
    shapes = queries.shape, others.shape
    if queries.ndim != 3 or others.ndim != 3 or shapes[0][2] != shapes[1][2] or 0 in (shapes[0][1], *shapes[1][1:]):
        raise ValueError(
            f"queries and {name} must have shapes (Q, r, d) and (N, t, d), got {tuple(shapes[0])} and "
            f"{tuple(shapes[1])}"
        )


def _similarity_of_units(query: Tensor, sets: Tensor, epsilon: float, num_iters: int, cost: str) -> Tensor:
    """Compares one set of unit vectors `(r, d)` with others `(N, t, d)`; returns `(N,)`."""
    cosine = torch.einsum("rd,ntd->nrt", query, sets)
    # Rounding lets the cosine of equal vectors exceed 1.
    distance = 1 - cosine if cost == "cosine" else (2 - 2 * cosine).clamp(min=0).sqrt()
    plan = transport_plan(distance, epsilon, num_iters)
    return (plan * cosine).sum(dim=(1, 2)) / plan.sum(dim=(1, 2))


@torch.no_grad()
def token_cosine(tokens: Tensor) -> Tensor:
    """Computes the mean cosine of the pairs of different tokens of one image, averaged over all images.

    This is the measure of feature diversity of Gong et al. 2021 (arXiv 2104.12753).

    Args:
        tokens: Tokens of shape `(B, r, d)`.

    Returns:
        A float32 scalar in [-1, 1]. Good is low, 0 or below: the tokens of an image differ. 1: they are all the same.
        0 if there is only one token, and thus no pair.
    """
    num_tokens = tokens.shape[1]
    if num_tokens < 2:
        return torch.zeros((), device=tokens.device)
    tokens = tokens.float()
    directions = tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=TINY)
    # The squared norm of the sum of unit vectors holds all pairs, and each token with itself.
    together = directions.sum(dim=1).square().sum(dim=-1)
    itself = directions.square().sum(dim=(1, 2))
    return ((together - itself) / (num_tokens * (num_tokens - 1))).mean().clamp(-1, 1)


class TokenStability(NamedTuple):
    """How well the tokens of two views of an image agree, as means over all tokens of all images.

    Attributes:
        matched: Cosine of matched tokens, in [-1, 1].
        unmatched: Cosine of all other pairs of the two views, in [-1, 1].
        same_index: Share of the tokens that are matched to the token of the same index, in [0, 1].
    """

    matched: float
    unmatched: float
    same_index: float


@torch.no_grad()
def token_stability(first: Tensor, second: Tensor) -> TokenStability:
    """Compares the tokens of two views of the same images.

    Args:
        first: Tokens of one view of each image, `(B, r, d)`.
        second: Tokens of another view of each image, `(B, r, d)`.

    Returns:
        Good is a `matched` near 1 and well above `unmatched`. If both are alike, all tokens are alike.
    """
    index, _ = match_tokens(first, second)  # (B, r)
    cosine = F.normalize(first.double(), dim=-1) @ F.normalize(second.double(), dim=-1).mT  # (B, r, r)
    matched = cosine.gather(2, index[..., None])[..., 0]  # (B, r)
    pairs = cosine.numel() - matched.numel()
    others = (cosine.sum() - matched.sum()).item() / pairs if pairs else 0.0
    own = torch.arange(first.shape[1], device=index.device)
    return TokenStability(matched.mean().item(), others, (index == own).double().mean().item())


class MapShape(NamedTuple):
    """The shape of localization maps, as means over all images.

    Attributes:
        sharpness: How clearly each place chooses a token, in [0, 1].
        area: Share of the image that a token's map covers, in [1/n, 1].
        owning: Share of the tokens that are the strongest at some place, in [1/r, 1].
    """

    sharpness: float
    area: float
    owning: float


@torch.no_grad()
def map_shape(localization: Tensor) -> MapShape:
    """Measures the shape of localization maps.

    Args:
        localization: `L` of shape `(B, n, r)`, not negative; rows sum to 1.

    Returns:
        `sharpness` is 1 minus the normalized entropy of a row: 1 if each place belongs to one token, 0 if it belongs to
        all tokens equally. `area` is `exp` of the entropy of a column, scaled to sum to 1, divided by `n`: 1/n for a
        map at one place, 1 for a map that is the same everywhere. Good is a high sharpness, an area near `1/r` and an
        owning near 1: the tokens divide the image among themselves.
    """
    maps = localization.double()
    places, tokens = maps.shape[1:]
    columns = maps / maps.sum(dim=1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    area = torch.special.entr(columns).sum(dim=1).exp() / places  # (B, r)
    owns = torch.zeros(maps.shape[0], tokens, dtype=torch.bool, device=maps.device)
    owns.scatter_(1, maps.argmax(dim=2), True)
    sharpness = 1 - normalized_entropy(maps).mean().item()
    return MapShape(sharpness, area.mean().item(), owns.double().mean().item())
