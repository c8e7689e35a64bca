"""Over how many directions features spread: singular values and effective rank.

Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality" (EUSIPCO); as a measure of features
learned without labels Garrido et al. 2023, RankMe (arXiv 2210.02885).
"""

import torch
from torch import Tensor

NEGLIGIBLE = 1e-10  # of the rows' norm: what rounding leaves of rows that are all the same


def singular_values(rows: Tensor) -> Tensor:
    """Singular values of rows less their mean, `(N, d)` to `(min(N, d),)` float64, the largest first.

    From the smaller of the two Gram matrices; with batches in front, `(..., N, d)` to `(..., min(N, d))`.
    """
    rows = rows.double()
    centred = rows - rows.mean(dim=-2, keepdim=True)
    wide = centred.shape[-2] < centred.shape[-1]
    gram = centred @ centred.mT if wide else centred.mT @ centred
    return torch.linalg.eigvalsh(gram).flip(-1).clamp(min=0).sqrt()


def effective_rank(rows: Tensor) -> Tensor:
    """`exp` of the entropy of the singular values, each as a share of their sum.

    Args:
        rows: `(..., N, d)`.

    Returns:
        `(...)` float64 in [1, min(N - 1, d)], and 1 where all rows are the same.
    """
    values = singular_values(rows)
    total = values.sum(dim=-1, keepdim=True)
    blank = total <= NEGLIGIBLE * rows.double().flatten(-2).norm(dim=-1)[..., None]
    shares = values / total.masked_fill(blank, 1)
    return torch.where(blank[..., 0], 1.0, torch.special.entr(shares).sum(dim=-1).exp())
