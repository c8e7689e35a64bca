"""Matching of two sets of tokens by entropic optimal transport.

STELLAR (arXiv 2602.01905) matches the tokens of a view to the tokens of its image, because sparse tokens have no order.
Training, set similarity and token stability share this matching. The Sinkhorn iterations (Cuturi 2013, arXiv 1306.0895)
run on dual variables in the log domain: small costs and a small epsilon do not underflow there.
"""

import torch
from torch import Tensor


def match_tokens(predicted: Tensor, target: Tensor, epsilon: float = 0.1, num_iters: int = 5) -> tuple[Tensor, Tensor]:
    """Matches each predicted token to a target token of the same image.

    The cost is the Euclidean distance of the raw tokens. The function computes in at least float32 and passes no
    gradient.

    Args:
        predicted: Tokens of shape `(B, q, d)`.
        target: Tokens of shape `(B, t, d)`.
        epsilon: Weight of the entropy, above 0. Small values give a sharper matching.
        num_iters: Number of Sinkhorn iterations, at least 1. They start from duals of zero.

    Returns:
        The index of the target for each predicted token, `(B, q)` int64, and the transport plan, `(B, q, t)`, whose
        columns sum to 1.

    Raises:
        ValueError: if the shapes do not fit, or a parameter is out of range.
    """
    if predicted.ndim != 3 or target.ndim != 3 or predicted.shape[::2] != target.shape[::2]:
        raise ValueError(
            "predicted and target must have shapes (B, q, d) and (B, t, d), "
            f"got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    check_sinkhorn(epsilon, num_iters)
    with torch.no_grad():
        working = torch.promote_types(predicted.dtype, torch.float32)
        cost = torch.cdist(
            predicted.to(working), target.to(working), compute_mode="donot_use_mm_for_euclid_dist"
        )  # (B, q, t)
        plan = transport_plan(cost, epsilon, num_iters)
        return plan.argmax(dim=-1), plan


def transport_plan(cost: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Computes the entropic transport plan between two sets whose elements have mass 1.

    Each iteration sets `u = -eps LSE_t((v - c) / eps)`, then `v = -eps LSE_q((u - c) / eps)`.

    Args:
        cost: Costs `c` of shape `(B, q, t)`.
        epsilon: Weight of the entropy, above 0.
        num_iters: Number of Sinkhorn iterations.

    Returns:
        `exp((u + v - c) / eps)`, of shape `(B, q, t)`. Its columns sum to 1.
    """
    row_dual = torch.zeros_like(cost[:, :, :1])  # (B, q, 1)
    column_dual = torch.zeros_like(cost[:, :1, :])  # (B, 1, t)
    for _ in range(num_iters):
        row_dual = -epsilon * torch.logsumexp((column_dual - cost) / epsilon, dim=2, keepdim=True)
        column_dual = -epsilon * torch.logsumexp((row_dual - cost) / epsilon, dim=1, keepdim=True)
    return torch.exp((row_dual + column_dual - cost) / epsilon)


def check_sinkhorn(epsilon: float, num_iters: int) -> None:
    """Raises ValueError unless `epsilon` is above 0 and `num_iters` is at least 1."""
    if not epsilon > 0 or num_iters < 1:
        raise ValueError(f"epsilon must be above 0 and num_iters at least 1, got {epsilon} and {num_iters}")
