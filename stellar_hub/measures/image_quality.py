"""How well images agree: PSNR of two images, and the Fréchet distance of two sets of features."""

import math

import torch
from torch import Tensor


def psnr(images: Tensor, references: Tensor) -> float:
    """Peak signal-to-noise ratio of values in [0, 1]: `-10 log10` of the mean squared error over all elements.

    Args:
        images: Any shape, in [0, 1].
        references: The same shape, in [0, 1].

    Returns:
        Decibels; infinite where the two are equal.

    Raises:
        ValueError: if the shapes differ.
    """
    if images.shape != references.shape:
        raise ValueError(f"shapes differ: {tuple(images.shape)} and {tuple(references.shape)}")
    error = (images.float() - references.float()).square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` of means and (unbiased) covariances, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of `C1 C2`: those are the squared singular values
    of `A1 A2^T / n`, with `A` the centred rows, which needs no root of a matrix and no large eigenproblem.

    Args:
        first: `(N, d)`.
        second: `(M, d)`.

    Returns:
        At least 0 up to rounding. Good is low, but it depends on N: compare at the same number of images.

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
