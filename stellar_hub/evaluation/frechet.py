"""Fréchet distance of two clouds of features, each taken for a Gaussian.

Heusel et al. 2017, "GANs trained by a two time-scale update rule" (arXiv 1706.08500), equation 6. With features of
Inception-v3, of pictures and of their reconstructions, it is rFID.
"""

import torch
from torch import Tensor


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of means and (unbiased) covariances, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of `C1 C2`: those are the squared singular values
    of `A1 A2^T / n`, with `A` the centred rows, which needs no root of a matrix and no large eigenproblem.

    Args:
        first: `(N, d)`.
        second: `(M, d)`.

    Returns:
        At least 0 up to rounding. Good is low, but it depends on N: compare at the same number of pictures.

    Raises:
        ValueError: if shapes do not fit, or there are fewer than two rows of either.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(
            "features must have shapes (N, d) and (M, d) with N and M at least 2, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    means, roots = [], []
    for rows in (first.double(), second.double()):
        means.append(rows.mean(dim=0))
        centred = (rows - means[-1]) / (len(rows) - 1) ** 0.5  # C = centred^T centred
        roots.append(centred if len(centred) <= centred.shape[1] else torch.linalg.qr(centred).R)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    total = (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * cross
    return float(total)
