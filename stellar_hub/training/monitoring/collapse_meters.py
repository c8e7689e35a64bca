"""Meters that show a collapse of self-supervised training while it happens.

All are computed in float32 or better, take no gradient, and are finite for a batch of one, one token, or identical
tokens. Only values that are not finite make a meter so.
"""

import math
from typing import Any

import torch
from torch import Tensor

TINY = 1e-12


@torch.no_grad()
def assignment_entropy(mean_assignment: Tensor) -> Tensor:
    """Entropy of how often each prototype is used, as a share of the highest possible.

    The marginal entropy of online clustering (Caron et al. 2020, SwAV, arXiv 2006.09882; Assran et al. 2022, MSN,
    arXiv 2204.07141).

    Args:
        mean_assignment: Mean of the assignments over all rows, `(K,)`, not negative; scaled here to sum to 1.

    Returns:
        A scalar in [0, 1]. Good is near 1: all prototypes are used alike; Sinkhorn pulls it there, so that even a
        small fall tells. 0: a single one takes everything.
    """
    return share_of_highest_entropy(mean_assignment.float())


@torch.no_grad()
def token_cosine(tokens: Tensor) -> Tensor:
    """Mean cosine of the pairs of different tokens of one image, over all images.

    The measure of feature diversity of Gong et al. 2021 (arXiv 2104.12753).

    Args:
        tokens: `(B, r, d)`.

    Returns:
        A scalar in [-1, 1]. Good is low, 0 or below: the tokens of an image differ. 1: they are all the same.
        0 where there is one token, and no pair.
    """
    num_tokens = tokens.shape[1]
    if num_tokens < 2:
        return torch.zeros((), device=tokens.device)
    tokens = tokens.float()
    directions = tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=TINY)
    # |sum of unit vectors|^2 holds all pairs, and each token with itself.
    together = directions.sum(dim=1).square().sum(dim=-1)
    itself = directions.square().sum(dim=(1, 2))
    return ((together - itself) / (num_tokens * (num_tokens - 1))).mean().clamp(-1, 1)


@torch.no_grad()
def effective_rank(tokens: Tensor) -> Tensor:
    """How many directions the tokens of a batch spread over: exp of the entropy of the singular values.

    Roy & Vetterli 2007, "The effective rank", EUSIPCO; as a measure of collapse Garrido et al. 2023, RankMe
    (arXiv 2210.02885). Of the matrix of all tokens of the batch less their mean; the singular values come from the
    smaller of its two Gram matrices in float64, since decomposing the long matrix itself would cost more than a step.

    Args:
        tokens: `(B, r, d)`.

    Returns:
        A scalar in [1, min(B r - 1, d)], at least 1. Good is high. 1: all tokens on one line, or in one point.
    """
    # CODEPATH: Apple's GPUs know no float64.
    rows = tokens.flatten(0, 1).to("cpu" if tokens.device.type == "mps" else tokens.device, torch.float64)
    centred = rows - rows.mean(dim=0)  # (B r, d)
    gram = centred @ centred.t() if centred.shape[0] < centred.shape[1] else centred.t() @ centred
    if not torch.isfinite(gram).all():  # which eigvalsh refuses
        return torch.full((), torch.nan, device=tokens.device)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    # Identical tokens leave their rounding errors, which have no direction worth counting.
    if singular.sum() <= 1e-10 * rows.norm() + TINY:
        return torch.ones((), device=tokens.device)
    shares = singular / singular.sum()
    return torch.special.entr(shares).sum().exp().clamp(min=1).float().to(tokens.device)


@torch.no_grad()
def localization_entropy(localization: Tensor) -> Tensor:
    """Entropy of the tokens at a place, as a share of the highest possible, mean over places.

    Args:
        localization: `L`, `(B, n, r)`, rows sum to 1.

    Returns:
        A scalar in [0, 1]. Good is well below 1: each place belongs to few tokens. 1: to all alike, the maps are
        blank. 0: to a single one; also where there is but one token.
    """
    return share_of_highest_entropy(localization.float()).mean()


def share_of_highest_entropy(weights: Tensor) -> Tensor:
    """Entropy over the last dimension by `log` of its length, `(..., K)` to `(...)` in [0, 1]; 0 where `K` is 1."""
    count = weights.shape[-1]
    if count < 2:
        return torch.zeros(weights.shape[:-1], device=weights.device)
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=TINY)
    return (torch.special.entr(shares).sum(dim=-1) / math.log(count)).clamp(0, 1)


@torch.no_grad()
def collapse_meters(output: Any) -> dict[str, float]:
    """All meters of one forward that its output has something for.

    Args:
        output: Has the attributes `tokens` `(B, r, d)`, `localization` `(B, n, r)`, `mean_assignment` `(K,)` and
            `agreement` (a scalar), as `StellarPreTrainingOutput` has them; what is None or absent is left out.

    Returns:
        `assignment_entropy`, `token_cosine`, `effective_rank`, `localization_entropy` and `agreement`; this
        last, the mean cosine in [-1, 1] of matched tokens' embeddings, as it is handed over: good is high, but with
        `token_cosine` near 1 it is high for nothing.
    """
    sources = {
        "assignment_entropy": (assignment_entropy, "mean_assignment"),
        "token_cosine": (token_cosine, "tokens"),
        "effective_rank": (effective_rank, "tokens"),
        "localization_entropy": (localization_entropy, "localization"),
        "agreement": (torch.Tensor.float, "agreement"),
    }
    meters: dict[str, Tensor] = {}
    for name, (meter, field) in sources.items():
        value = getattr(output, field, None)
        if value is not None:
            meters[name] = meter(torch.as_tensor(value).detach())
    if not meters:
        return {}
    # One transfer from the device for all.
    values = torch.stack([value.to(next(iter(meters.values())).device) for value in meters.values()])
    return dict(zip(meters, values.tolist(), strict=True))
