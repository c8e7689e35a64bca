"""How alike two sets of tokens are: the mean cosine of tokens that optimal transport matches.

The matching is that of training (arXiv 2602.01905; Cuturi 2013, arXiv 1306.0895), with `1 - cosine` as the cost.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import transport_plan

PAIRS_AT_A_TIME = 1 << 14


def set_similarity(queries: Tensor, bank: Tensor, epsilon: float = 0.1, num_iters: int = 5) -> Tensor:
    """Similarity of each set of tokens to each other one.

    Args:
        queries: `(Q, r, d)`; lengths of tokens do not matter.
        bank: `(N, t, d)`.
        epsilon: Weight of the entropy in the matching, above 0: small values match more sharply.
        num_iters: Sinkhorn iterations.

    Returns:
        `(Q, N)` in [-1, 1], float32: `sum_ij plan_ij cos_ij / sum_ij plan_ij`. The order of tokens does not matter.

    Raises:
        ValueError: if shapes do not fit, or a parameter is out of range.
    """
    if queries.ndim != 3 or bank.ndim != 3 or queries.shape[2] != bank.shape[2] or 0 in bank.shape:
        raise ValueError(
            f"queries and bank must have shapes (Q, r, d) and (N, t, d), got {tuple(queries.shape)} and "
            f"{tuple(bank.shape)}"
        )
    if not epsilon > 0 or num_iters < 1:
        raise ValueError(f"epsilon must be above 0 and num_iters at least 1, got {epsilon} and {num_iters}")
    unit_bank = F.normalize(bank.float(), dim=-1)
    rows = [torch.empty(0, len(bank), device=queries.device)]
    for query in F.normalize(queries.float(), dim=-1):
        parts = []
        for chunk in unit_bank.split(PAIRS_AT_A_TIME):
            cosine = torch.einsum("rd,ntd->nrt", query, chunk)
            plan = transport_plan(1 - cosine, epsilon, num_iters)
            parts.append((plan * cosine).sum(dim=(1, 2)) / plan.sum(dim=(1, 2)))
        rows.append(torch.cat(parts)[None])
    return torch.cat(rows)
