"""Meters that show a collapse of self-supervised training while it happens.

The meters are measures of `stellar_hub.measures`. They take no gradient. They are finite for a batch of one image, for
one token and for identical tokens; only input that is not finite makes them NaN.
"""

from typing import Any

import torch
from torch import Tensor

from stellar_hub.measures import effective_rank, normalized_entropy, token_cosine, vendi_score


def assignment_entropy(mean_assignment: Tensor) -> Tensor:
    """Computes how evenly prototypes or anchors are used: the normalized entropy of the mean assignment.

    This is the marginal entropy of online clustering (Caron et al. 2020, SwAV, arXiv 2006.09882; Assran et al. 2022,
    MSN, arXiv 2204.07141).

    Args:
        mean_assignment: Mean of the assignments over all rows, `(K,)`, not negative. It need not sum to 1.

    Returns:
        A scalar in [0, 1]. Good is near 1: all prototypes are used equally. Sinkhorn pulls it there, so even a small
        fall is a warning. 0: one prototype takes everything. SOP has nothing that pulls it up.
    """
    return normalized_entropy(mean_assignment.float())


def localization_entropy(localization: Tensor) -> Tensor:
    """Computes how undecided places are between tokens: the normalized entropy of a row of `L`, mean over places.

    Args:
        localization: `L` of shape `(B, n, r)`. Rows sum to 1.

    Returns:
        A scalar in [0, 1]. Good is well below 1: each place belongs to few tokens. 1: each place belongs to all tokens
        equally. 0: each place belongs to one token, or there is only one.
    """
    return normalized_entropy(localization.float()).mean()


def rank_of_tokens(tokens: Tensor) -> Tensor:
    """Computes the effective rank of all tokens of a batch `(B, r, d)`. Good is high, 1 is collapse."""
    return effective_rank(tokens.flatten(0, 1)).float()


def memory_diversity(anchors: Tensor) -> Tensor:
    """Computes the effective number of different embeddings among anchors `(A, p)` that were drawn from a memory.

    Good is high. It is 1 where all embeddings of the memory are alike; then anchors share everything equally, and
    `assignment_entropy` does not show it.
    """
    return vendi_score(anchors).float()


def projection_diversity(projections: Tensor) -> Tensor:
    """Computes the effective number of different images among a baseline's projections of a batch, `(B, outputs)`.

    Good is high, at most `B`. It is 1 where all images have the same projection, to which a baseline may collapse.
    """
    return vendi_score(projections).float()


METERS = {
    "assignment_entropy": (assignment_entropy, "mean_assignment"),
    "token_cosine": (token_cosine, "tokens"),
    "effective_rank": (rank_of_tokens, "tokens"),
    "localization_entropy": (localization_entropy, "localization"),
    "agreement": (Tensor.float, "agreement"),
    "memory_diversity": (memory_diversity, "anchors"),
    "projection_diversity": (projection_diversity, "projections"),
}


@torch.no_grad()
def collapse_meters(output: Any) -> dict[str, float]:
    """Computes all meters that the output of one forward has values for.

    Args:
        output: Object with the attributes `tokens` `(B, r, d)`, `localization` `(B, n, r)`, `mean_assignment` `(K,)`,
            `agreement` (a scalar), `anchors` `(A, p)` and `projections` `(B, outputs)`, such as
            `StellarPreTrainingOutput`. Attributes may be None or missing.

    Returns:
        `assignment_entropy`, `token_cosine`, `effective_rank`, `localization_entropy`, `agreement`, `memory_diversity`
        and `projection_diversity`. `agreement` is the output's own mean cosine of matched tokens' embeddings, in
        [-1, 1]. Good is high, but it means nothing if `token_cosine` is near 1.
    """
    meters: dict[str, Tensor] = {}
    for name, (meter, field) in METERS.items():
        value = getattr(output, field, None)
        if value is not None:
            meters[name] = meter(torch.as_tensor(value).detach())
    if not meters:
        return {}
    # All values leave the device in one transfer.
    device = next(iter(meters.values())).device
    return dict(zip(meters, torch.stack([value.to(device) for value in meters.values()]).tolist(), strict=True))
