"""How widely and how evenly features spread: entropies, singular values, effective rank, alignment and uniformity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEGLIGIBLE = 1e-10  # as a share of the rows' norm: rounding leaves this much of rows that are all the same
TINY = 1e-12
ROWS_AT_A_TIME = 2048


def normalized_entropy(weights: Tensor) -> Tensor:
    """Computes the entropy of weights as a share of the highest possible entropy, the log of their number.

    Args:
        weights: Weights of shape `(..., K)`, not negative. The function scales them to sum to 1.

    Returns:
        Values in [0, 1] of shape `(...)`, in the dtype of the weights. 1: all K weights are equal. 0: one weight has
        everything, or K is 1.
    """
    count = weights.shape[-1]
    if count < 2:
        return torch.zeros(weights.shape[:-1], device=weights.device)
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=TINY)
    return (torch.special.entr(shares).sum(dim=-1) / math.log(count)).clamp(0, 1)


def singular_values(rows: Tensor) -> Tensor:
    """Computes the singular values of rows after their mean is subtracted.

    They come from the smaller of the two Gram matrices in float64, because a decomposition of the long matrix itself
    would cost more than a training step.

    Args:
        rows: Rows of shape `(..., N, d)`.

    Returns:
        Singular values of shape `(..., min(N, d))`, float64, the largest first. They are NaN where a row is not finite.
    """
    # CODEPATH: Apple's GPUs know no float64.
    rows = rows.to("cpu" if rows.device.type == "mps" else rows.device, torch.float64)
    centred = rows - rows.mean(dim=-2, keepdim=True)
    wide = centred.shape[-2] < centred.shape[-1]
    gram = centred @ centred.mT if wide else centred.mT @ centred
    finite = gram.isfinite().all(dim=-1).all(dim=-1)  # eigvalsh refuses other matrices
    values = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0)).flip(-1).clamp(min=0).sqrt()
    return torch.where(finite[..., None], values, torch.nan)


def without_rounding(values: Tensor, rows: Tensor) -> Tensor:
    """Sets the singular values to 0 that rounding alone may have made; the others are the numerical rank.

    Two errors bound them: that of the eigenvalues of the Gram matrix in float64, and that of the rows in their own
    dtype, at most half of its epsilon for each entry.

    Args:
        values: Singular values from `singular_values(rows)`, `(k,)` float64.
        rows: The rows, `(N, d)`, in the dtype that they were computed in.

    Returns:
        The values, `(k,)`, with zeros for those at the level of rounding.
    """
    gram = math.sqrt(max(rows.shape) * torch.finfo(torch.float64).eps) * values.amax()
    entries = 0.5 * torch.finfo(rows.dtype).eps * rows.double().norm()
    return torch.where(values > torch.maximum(gram, entries.to(values.device)), values, 0)


def effective_rank(rows: Tensor) -> Tensor:
    """Computes the number of directions that rows spread over: `exp` of the entropy of their singular values.

    Roy & Vetterli 2007, "The effective rank", EUSIPCO; as a measure of collapse Garrido et al. 2023, RankMe
    (arXiv 2210.02885). The function subtracts the mean of the rows, and divides the singular values by their sum.

    Args:
        rows: Rows of shape `(..., N, d)`.

    Returns:
        Ranks of shape `(...)`, float64, in [1, max(1, min(N - 1, d))]. Good is high. 1: all rows lie on one line or in
        one point. NaN: a row is not finite.
    """
    values = singular_values(rows)
    total = values.sum(dim=-1, keepdim=True)
    # Identical rows leave rounding errors, and those have no direction that counts.
    norm = rows.to(values.device, values.dtype).flatten(-2).norm(dim=-1, keepdim=True)
    blank = total <= NEGLIGIBLE * norm + TINY
    shares = values / total.masked_fill(blank, 1)
    return torch.where(blank[..., 0], 1.0, torch.special.entr(shares).sum(dim=-1).exp().clamp(min=1))


def vendi_score(rows: Tensor) -> Tensor:
    """Computes the Vendi score, an effective number of different rows.

    Friedman & Dieng 2023 (arXiv 2210.02410): `exp(-tr(K/N log K/N))`, where `K` holds the cosines of all pairs. The
    eigenvalues come from the smaller of the two Gram matrices of the unit rows; they differ only in zeros.

    Args:
        rows: Rows of shape `(..., N, d)`. Their lengths do not matter, but none may be 0.

    Returns:
        Scores of shape `(...)`, float64, in [1, min(N, d)]. Good is high. N: all rows are orthogonal. 1: all rows point
        the same way.
    """
    unit = F.normalize(rows.double(), dim=-1)
    number = unit.shape[-2]
    gram = (unit @ unit.mT if number < unit.shape[-1] else unit.mT @ unit) / number
    shares = torch.linalg.eigvalsh(gram).clamp(min=0)
    return torch.special.entr(shares).sum(dim=-1).exp()


def diffusion_eigenvalues(rows: Tensor, sigma: float) -> Tensor:
    """Computes the eigenvalues of the diffusion matrix of rows.

    `G_ij = exp(-||x_i - x_j||^2 / (2 sigma^2))`, where a constant factor would cancel; `K = G_ij / (g_i g_j)^(1/2)`,
    where `g` are the row sums of `G`; `P` is `K` with each row divided by its sum. `P` has the eigenvalues of the
    symmetric matrix `K_ij / (k_i k_j)^(1/2)`, where `k` are the row sums of `K`.

    Args:
        rows: Rows of shape `(N, d)`.
        sigma: Bandwidth of the kernel, above 0, in the units of the rows.

    Returns:
        Eigenvalues of shape `(N,)`, float64, in [-1, 1]. The largest is 1 and comes last.

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
    """Computes the diffusion spectral entropy of rows.

    Liao et al. 2023 (arXiv 2312.04823): `-sum_i a_i log a_i` with `a_i = |l_i^t| / sum_j |l_j^t|`, where `l` are the
    eigenvalues of the diffusion matrix.

    Args:
        rows: Rows of shape `(N, d)`.
        sigma: Bandwidth of the kernel, above 0, in the units of the rows.
        t: Number of diffusion steps, at least 1. More steps forget finer detail.

    Returns:
        A value in [0, log N]. Good is high. How high depends on sigma: compare models at the same rule for sigma.
        0: all rows are the same.

    Raises:
        ValueError: if sigma is not above 0.
    """
    powers = diffusion_eigenvalues(rows, sigma).abs().pow(t)
    return torch.special.entr(powers / powers.sum()).sum().item()


def median_distance(rows: Tensor) -> float:
    """Returns the median distance between different rows `(N, d)`, a bandwidth that fits any scale; 1 if it is 0."""
    distances = torch.pdist(rows.double())
    return distances.median().item() or 1.0


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> float:
    """Computes the mean of `||x - y||^alpha` over pairs of unit vectors that belong together.

    Wang & Isola 2020, "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere" (arXiv 2005.10242).

    Args:
        first: Vectors of shape `(N, d)`. Their lengths do not matter.
        second: Vectors of shape `(N, d)`: row i shows another view of the image of row i of `first`.
        alpha: Exponent, above 0.

    Returns:
        A value in [0, 2^alpha]. Good is low: the features do not depend on the view.
    """
    x, y = F.normalize(first.double(), dim=-1), F.normalize(second.double(), dim=-1)
    return (x - y).norm(dim=-1).pow(alpha).mean().item()


def uniformity(rows: Tensor, t: float = 2.0) -> float:
    """Computes the log of the mean of `exp(-t ||x - y||^2)` over all pairs of different rows, scaled to unit length.

    The source is that of `alignment`.

    Args:
        rows: Vectors of shape `(N, d)`, N at least 2.
        t: Scale of the kernel, above 0.

    Returns:
        A value in [-4 t, 0]. Good is low, about -2 t where `d` is large: the rows use all directions evenly. 0: all
        rows point the same way.

    Raises:
        ValueError: if there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"uniformity compares pairs of rows and needs at least 2 rows, got {len(rows)}")
    x = F.normalize(rows.double(), dim=-1)
    sums = []
    for start in range(0, len(x), ROWS_AT_A_TIME):
        chunk = x[start : start + ROWS_AT_A_TIME]
        squared_distance = 2 - 2 * chunk @ x.T
        sums.append((-t * squared_distance.clamp(min=0)).exp().sum() - len(chunk))  # each row with itself gives 1
    return math.log(torch.stack(sums).sum().item() / (len(x) * (len(x) - 1)))
