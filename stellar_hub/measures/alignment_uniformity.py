"""Are views of one image near each other, and images spread over the sphere?

Wang and Isola 2020, "Understanding contrastive representation learning through alignment and uniformity on the
hypersphere" (arXiv 2005.10242), with their alpha = 2 and t = 2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_A_TIME = 2048


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> float:
    """Mean of `||x - y||^alpha` over pairs of unit vectors that belong together.

    Args:
        first: `(N, d)`; lengths do not matter.
        second: `(N, d)`, row by row of the same images.
        alpha: Above 0.

    Returns:
        In [0, 2^alpha]. Good is low: what changes between views leaves no trace.
    """
    x, y = F.normalize(first.double(), dim=-1), F.normalize(second.double(), dim=-1)
    return (x - y).norm(dim=-1).pow(alpha).mean().item()


def uniformity(rows: Tensor, t: float = 2.0) -> float:
    """`log` of the mean of `exp(-t ||x - y||^2)` over all pairs of different rows, scaled to unit length.

    Args:
        rows: `(N, d)`, N at least 2.
        t: Above 0.

    Returns:
        In [-4 t, 0]. Good is low, -2 t where `d` is large: directions are used evenly. 0: all rows are alike.

    Raises:
        ValueError: if there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"uniformity is of pairs: at least 2 rows are needed, got {len(rows)}")
    x = F.normalize(rows.double(), dim=-1)
    sums = []
    for start in range(0, len(x), ROWS_AT_A_TIME):
        chunk = x[start : start + ROWS_AT_A_TIME]
        distance = 2 - 2 * chunk @ x.T  # squared, of unit vectors
        sums.append((-t * distance.clamp(min=0)).exp().sum() - len(chunk))  # each with itself gives 1
    return math.log(torch.stack(sums).sum().item() / (len(x) * (len(x) - 1)))
