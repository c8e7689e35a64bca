"""How many different things there are among some vectors.

Friedman and Dieng 2023, "The Vendi score: a diversity evaluation metric for machine learning" (arXiv 2210.02410),
Definition 3.1, with the cosine as the kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def vendi_score(rows: Tensor) -> Tensor:
    """`exp(-tr(K/N log K/N))`, `K` being the cosines of all pairs.

    The eigenvalues come from the smaller of the two Gram matrices of unit rows, which have the same ones but for zeros.

    Args:
        rows: `(..., N, d)`; lengths do not matter, and none is 0.

    Returns:
        `(...)` float64 in [1, min(N, d)]. Good is high: N where all are orthogonal. 1: all point the same way.
    """
    unit = F.normalize(rows.double(), dim=-1)
    number = unit.shape[-2]
    gram = (unit @ unit.mT if number < unit.shape[-1] else unit.mT @ unit) / number
    shares = torch.linalg.eigvalsh(gram).clamp(min=0)
    return torch.special.entr(shares).sum(dim=-1).exp()
