"""Over how many intrinsic directions a cloud of vectors spreads, noise left out.

Liao et al. 2023, "Assessing neural network representations during training using noise-resilient diffusion spectral
entropy" (arXiv 2312.04823), its definition of the diffusion matrix with alpha = 1/2. The authors' program stops at the
symmetric kernel before its rows are normalized, leaves out the largest eigenvalue and takes logarithms to base 2; here
it is the paper's text: row-stochastic matrix, all eigenvalues, natural logarithm.
"""

import torch
from torch import Tensor


def diffusion_eigenvalues(rows: Tensor, sigma: float) -> Tensor:
    """Eigenvalues of the diffusion matrix of rows, `(N, d)` to `(N,)` float64 in [-1, 1], the largest, 1, last.

    `G_ij = exp(-||x_i - x_j||^2 / (2 sigma^2))` (its factor in front cancels), `K = G_ij / (g_i g_j)^(1/2)` with
    `g` the row sums of `G`, and `P = K` with each row divided by its sum. `P` has the eigenvalues of the symmetric
    `K_ij / (k_i k_j)^(1/2)`, `k` the row sums of `K`.

    Raises:
        ValueError: if sigma is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    rows = rows.double()
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    gaussian = (-distance.square() / (2 * sigma**2)).exp()
    kernel = gaussian / gaussian.sum(dim=1).sqrt()[:, None] / gaussian.sum(dim=1).sqrt()[None]
    degree = kernel.sum(dim=1).sqrt()
    return torch.linalg.eigvalsh(kernel / degree[:, None] / degree[None])


def diffusion_spectral_entropy(rows: Tensor, sigma: float, t: int = 1) -> float:
    """`-sum_i a_i log a_i` with `a_i = |l_i^t| / sum_j |l_j^t|` over the eigenvalues `l` of the diffusion matrix.

    Args:
        rows: `(N, d)`.
        sigma: Bandwidth of the kernel, in the units of the rows.
        t: Steps of diffusion, at least 1: more of them forget finer detail.

    Returns:
        In [0, log N]. Good is high, but how high depends on sigma: compare models at the same rule for it. 0: all rows
        are the same.
    """
    powers = diffusion_eigenvalues(rows, sigma).abs().pow(t)
    return torch.special.entr(powers / powers.sum()).sum().item()


def median_distance(rows: Tensor) -> float:
    """Median of the distances between different rows `(N, d)`: a bandwidth that fits any scale; 1 where it is 0."""
    rows = rows.double()
    distances = torch.pdist(rows)
    return distances.median().item() or 1.0
