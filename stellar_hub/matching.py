"""Matching two sets of tokens by entropic optimal transport: neutral ground, for training and for set search.

STELLAR (arXiv 2602.01905) matches the tokens of a view to those of its image, as sparse tokens have no order. Sinkhorn
iterations (Cuturi 2013, arXiv 1306.0895) run in the log domain, on dual variables, so that small costs and a small
epsilon do not underflow.
"""

import torch
from torch import Tensor


def match_tokens(predicted: Tensor, target: Tensor, epsilon: float = 0.1, num_iters: int = 5) -> tuple[Tensor, Tensor]:
    """Match each predicted token to a target token of the same image.

    The cost is the Euclidean distance of the raw tokens. No gradient passes: an index has none. Computed in at least
    float32.

    Args:
        predicted: `(B, q, d)`.
        target: `(B, t, d)`.
        epsilon: Weight of the entropy, above 0: small values match more sharply.
        num_iters: Sinkhorn iterations, from zero duals.

    Returns:
        For each predicted token the index of its target, `(B, q)` int64, and the transport plan, `(B, q, t)`, whose
        columns sum to 1.

    Raises:
        ValueError: if shapes do not fit, or a parameter is out of range.
    """
    if predicted.ndim != 3 or target.ndim != 3 or predicted.shape[::2] != target.shape[::2]:
        raise ValueError(
            "predicted and target must have shapes (B, q, d) and (B, t, d), "
            f"got {tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    if epsilon <= 0 or num_iters < 1:
        raise ValueError(f"epsilon must be above 0 and num_iters at least 1, got {epsilon} and {num_iters}")
    with torch.no_grad():
        working = torch.promote_types(predicted.dtype, torch.float32)
        cost = torch.cdist(
            predicted.to(working), target.to(working), compute_mode="donot_use_mm_for_euclid_dist"
        )  # (B, q, t)
        plan = transport_plan(cost, epsilon, num_iters)
        return plan.argmax(dim=-1), plan


def transport_plan(cost: Tensor, epsilon: float, num_iters: int) -> Tensor:
    """Entropic transport plan with unit masses.

    Args:
        cost: `(B, q, t)`.
        epsilon: Weight of the entropy.
        num_iters: Iterations of `u = -eps LSE_t((v - c) / eps)`, then `v = -eps LSE_q((u - c) / eps)`.

    Returns:
        `exp((u + v - c) / eps)`, `(B, q, t)`.
    """
    row_dual = torch.zeros_like(cost[:, :, :1])  # (B, q, 1)
    column_dual = torch.zeros_like(cost[:, :1, :])  # (B, 1, t)
    for _ in range(num_iters):
        row_dual = -epsilon * torch.logsumexp((column_dual - cost) / epsilon, dim=2, keepdim=True)
        column_dual = -epsilon * torch.logsumexp((row_dual - cost) / epsilon, dim=1, keepdim=True)
    return torch.exp((row_dual + column_dual - cost) / epsilon)
