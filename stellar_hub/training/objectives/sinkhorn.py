"""Sinkhorn assignment: soft targets that use all prototypes evenly, over the rows of all processes.

The method is that of SwAV (Caron et al. 2020, arXiv 2006.09882), as STELLAR (arXiv 2602.01905) uses it.
"""

import torch
import torch.distributed as dist
from torch import Tensor

EPS = 1e-8
# Exponents are shifted so that the largest of each prototype is exp(50), far from underflow and overflow in float32.
SHIFT = 50.0


@torch.no_grad()
def sinkhorn_assign(scores: Tensor, num_iters: int = 3, scale: float = 1.0) -> Tensor:
    """Assigns rows to prototypes so that all prototypes are used evenly.

    With several processes, maxima and column sums go over the rows of all of them; each process passes its own rows
    and gets their assignment. It passes no gradient, and computes in at least float32.

    Args:
        scores: Scores `(rows, K)`, already divided by the temperature.
        num_iters: Number of iterations; each divides columns by their sum, then rows by theirs.
        scale: Power of the column sum. Below 1 the use of the prototypes is less even.

    Returns:
        Assignment `(rows, K)`, not negative. Each row sums to 1, unless its mass vanished.

    Raises:
        ValueError: if `scores` does not have two dimensions or `num_iters` is below 1.
    """
    if scores.ndim != 2 or num_iters < 1:
        raise ValueError(
            f"scores must have shape (rows, K) and num_iters be at least 1, got {tuple(scores.shape)} and {num_iters}"
        )
    working = torch.promote_types(scores.dtype, torch.float32)
    largest = reduce_over_processes(column_max(scores).to(working), dist.ReduceOp.MAX)
    mass = (scores - largest).add_(SHIFT).exp_()  # the only buffer: all that follows is in place
    for _ in range(num_iters):
        column_sum = reduce_over_processes(mass.sum(dim=0), dist.ReduceOp.SUM).add_(EPS)
        mass.div_(column_sum if scale == 1 else column_sum.pow_(scale))
        mass.div_(mass.sum(dim=1, keepdim=True).add_(EPS))
    return mass


def column_max(scores: Tensor) -> Tensor:
    """Returns the largest score of each prototype, `(K,)`; minus infinity where this process has no rows."""
    if scores.shape[0] == 0:
        return scores.new_full((scores.shape[1],), -torch.inf)
    return scores.amax(dim=0)


def reduce_over_processes(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    """Reduces values over all processes, in place, and returns them; one process leaves them unchanged."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, op=operation)
    return values
