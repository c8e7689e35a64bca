"""How good a search is on labelled images."""

from collections.abc import Sequence

import torch
from torch import Tensor


def recall_at(found_labels: Tensor, query_labels: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Share of the queries that have an image of their class among the first `k` found.

    That is "Recall@K" of metric learning (Jégou et al. 2011; Song et al. 2016, arXiv 1511.06452). A query must not be
    among what is found for itself.

    Args:
        found_labels: Classes of what was found, best first, `(Q, n)`; -1 where nothing was.
        query_labels: Classes of the queries, `(Q,)`.
        ks: Numbers from 1 to n.

    Raises:
        ValueError: if shapes do not fit, or a `k` is out of range.
    """
    if found_labels.ndim != 2 or query_labels.shape != found_labels.shape[:1] or not len(query_labels):
        raise ValueError(
            "found_labels and query_labels must have shapes (Q, n) and (Q,) with Q at least 1, "
            f"got {tuple(found_labels.shape)} and {tuple(query_labels.shape)}"
        )
    if any(not 1 <= k <= found_labels.shape[1] for k in ks):
        raise ValueError(f"ks must lie between 1 and {found_labels.shape[1]}, the number found, got {list(ks)}")
    right = found_labels == query_labels[:, None]
    return {k: right[:, :k].any(dim=1).float().mean().item() for k in ks}


def without_self(rows: Tensor, query_rows: Tensor) -> Tensor:
    """Found rows without each query's own, `(Q, n - 1)`; where a query did not find itself, without the last.

    Args:
        rows: Found rows, `(Q, n)`.
        query_rows: The queries' own rows, `(Q,)`.
    """
    is_self = rows == query_rows[:, None]
    is_self[~is_self.any(dim=1), -1] = True
    return rows[~is_self].view(len(rows), -1) if len(rows) else torch.empty(0, 0, dtype=rows.dtype)
