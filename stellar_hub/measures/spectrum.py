"""Over how many directions features spread: singular values, effective rank, spectral entropy, Vendi score."""

import torch
import torch.nn.functional as F
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
