"""The best rows for each query, kept while a store goes by."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Hits(NamedTuple):
    """The best rows, best first.

    Attributes:
        rows: Rows of the store, `(Q, k)` int64.
        scores: Their similarities, `(Q, k)` float32, at most 1.
    """

    rows: Tensor
    scores: Tensor


def no_hits(num_queries: int) -> Hits:
    """Nothing found yet."""
    return Hits(torch.empty(num_queries, 0, dtype=torch.int64), torch.empty(num_queries, 0))


def best_of(found: Hits, rows: Tensor, scores: Tensor, k: int) -> Hits:
    """The `k` best of what was found and of some more rows; of equal scores the smaller row.

    Args:
        found: What was found before.
        rows: More rows, `(N,)`, all above those found.
        scores: Their similarities, `(Q, N)`.
        k: How many to keep at most.
    """
    all_rows = torch.cat([found.rows, rows.expand(len(scores), -1)], dim=1)
    all_scores = torch.cat([found.scores, scores], dim=1)
    # A stable sort, as `topk` leaves open which of two equal ones comes first.
    order = all_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Hits(all_rows.gather(1, order), all_scores.gather(1, order))


def check_queries(queries: Tensor, shape: tuple[int, ...], k: int) -> Tensor:
    """Queries `(Q, *shape)` as float32 of length 1 in the last dimension.

    Raises:
        ValueError: if their shape does not fit the store, they are not finite, or `k` is below 1.
    """
    if queries.ndim != len(shape) + 1 or queries.shape[-1] != shape[-1]:
        raise ValueError(
            f"queries must have shape (Q, {', '.join(map(str, shape))}), as in the store, got {tuple(queries.shape)}"
        )
    if not queries.isfinite().all():
        raise ValueError("queries hold values that are not finite: leave out rows with an error")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return F.normalize(queries.float(), dim=-1)
