"""Sinkhorn assignment: soft targets that use all prototypes, over the global batch of all processes.

After SwAV (Caron et al. 2020, arXiv 2006.09882), as STELLAR (arXiv 2602.01905) uses it.
"""

import torch
import torch.distributed as dist
from torch import Tensor

EPS = 1e-8
# Exponents are shifted so that the largest of each prototype is exp(50), far from underflow and overflow in float32.
SHIFT = 50.0


@torch.no_grad()
def sinkhorn_assign(scores: Tensor, num_iters: int = 3, scale: float = 1.0) -> Tensor:
    """Assign rows to prototypes with balanced use of the prototypes.

    Maxima and column sums are taken over the rows of all processes, if there are several; each process passes and gets
    its own rows. No gradient passes. Computed in at least float32.

    Args:
        scores: `(rows, K)`, already divided by the temperature.
        num_iters: Iterations, each dividing columns by their sum, then rows by theirs.
        scale: Power of the column sum; below 1 the balance is enforced less.

    Returns:
        `(rows, K)`, non-negative; each row sums to 1, unless its mass vanished.

    Raises:
        ValueError: if `scores` is no matrix or `num_iters` is below 1.
    """
    if scores.ndim != 2 or num_iters < 1:
        raise ValueError(
            f"scores must have shape (rows, K) and num_iters be at least 1, got {tuple(scores.shape)} and {num_iters}"
        )
    working = torch.promote_types(scores.dtype, torch.float32)
    largest = over_processes(column_max(scores).to(working), dist.ReduceOp.MAX)
    mass = (scores - largest).add_(SHIFT).exp_()  # the one buffer: all that follows is in place
    for _ in range(num_iters):
        column_sum = over_processes(mass.sum(dim=0), dist.ReduceOp.SUM).add_(EPS)
        mass.div_(column_sum if scale == 1 else column_sum.pow_(scale))
        mass.div_(mass.sum(dim=1, keepdim=True).add_(EPS))
    return mass


def column_max(scores: Tensor) -> Tensor:
    """Largest score of each prototype, `(K,)`; minus infinity where this process has no rows."""
    if scores.shape[0] == 0:
        return scores.new_full((scores.shape[1],), -torch.inf)
    return scores.amax(dim=0)


def over_processes(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    """Reduce over all processes; unchanged where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, op=operation)
    return values
