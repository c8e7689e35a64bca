"""What every search shares: the hits it returns, the queries it takes, the store it reads, and its recall."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import track
from stellar_hub.store import FeatureStore
from stellar_hub.store.resume import MANY_ROWS

ROWS_AT_A_TIME = 4096


class Hits(NamedTuple):
    """The rows of a store that a search found, the best first.

    Attributes:
        rows: Rows of the store, `(Q, k)` int64.
        scores: Similarities of these rows, `(Q, k)` float32, at most 1.
    """

    rows: Tensor
    scores: Tensor

    def named(self, store: FeatureStore, query: int = 0) -> list[tuple[str, float]]:
        """Returns the names and the scores of the images that one query found: `[("photos/cat.jpg", 0.93), ...]`.

        Args:
            store: The store that was searched.
            query: Number of the query.

        Raises:
            IndexError: if there is no such query.
        """
        found = self.rows[query] >= 0  # an approximate search marks missing hits
        names = [record.image for record in store.records(self.rows[query][found])]
        return list(zip(names, self.scores[query][found].tolist(), strict=True))


def no_hits(num_queries: int) -> Hits:
    """Returns hits without rows, for a search to begin with."""
    return Hits(torch.empty(num_queries, 0, dtype=torch.int64), torch.empty(num_queries, 0))


def best_hits(found: Hits, rows: Tensor, scores: Tensor, k: int) -> Hits:
    """Returns the `k` best of the hits and of more rows. Among equal scores the smaller row comes first.

    Args:
        found: Hits among earlier rows.
        rows: More rows, `(N,)`, all larger than those of `found`.
        scores: Similarities of these rows, `(Q, N)`.
        k: Maximum number of hits.
    """
    all_rows = torch.cat([found.rows, rows.expand(len(scores), -1)], dim=1)
    all_scores = torch.cat([found.scores, scores], dim=1)
    # A stable sort, as `topk` leaves open which of two equal ones comes first.
    order = all_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Hits(all_rows.gather(1, order), all_scores.gather(1, order))


def check_store(store: Any) -> None:
    """Raises TypeError unless the argument `store` of a search is a store."""
    if not isinstance(store, FeatureStore):
        is_path = isinstance(store, str | os.PathLike)
        hint = f": pass FeatureStore({one_line(repr(str(store)))})" if is_path else ""
        raise TypeError(f"store must be a FeatureStore, got {type(store).__name__}{hint}")


def unit_queries(queries: Tensor, shape: tuple[int, ...], k: int) -> Tensor:
    """Checks queries `(Q, *shape)` and scales them, as float32, to length 1 in the last dimension.

    Raises:
        TypeError: if `k` is not a whole number.
        ValueError: if their shape does not fit the store, they are not finite, or `k` is below 1.
    """
    if queries.ndim != len(shape) + 1 or queries.shape[-1] != shape[-1]:
        sizes = ", ".join(map(str, shape))
        raise ValueError(
            f"queries must have shape (Q, {sizes}) or {shape}, as in the store, got {tuple(queries.shape)}"
        )
    if not queries.isfinite().all():
        raise ValueError("queries have values that are not finite: leave out the rows with an error")
    if not isinstance(k, int | np.integer):
        raise TypeError(f"k must be a whole number, got {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return F.normalize(queries.float(), dim=-1)


def unit_vectors(
    store: FeatureStore, output: str, start: int = 0, description: str = ""
) -> Iterator[tuple[Tensor, Tensor]]:
    """Reads a store in chunks, from the row `start` on, without the rows that have an error.

    Args:
        store: The store.
        output: Name of the feature.
        start: First row.
        description: Text of the progress bar of a large store; empty shows none.

    Yields:
        Rows, `(N,)`, and their features at length 1, `(N, ..., d)` float32.
    """
    check_store(store)
    ok = store.ok
    starts = range(start, len(store), ROWS_AT_A_TIME)
    for first in track(starts, description, unit="part", enabled=bool(description) and len(store) >= MANY_ROWS):
        chunk = range(first, min(first + ROWS_AT_A_TIME, len(store)))
        kept = ok[chunk.start : chunk.stop]
        vectors = store._view(output, chunk)[kept].float()
        if len(vectors):
            yield kept.nonzero().flatten() + first, F.normalize(vectors, dim=-1)


def recall_at(found_labels: Tensor, query_labels: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Computes the share of queries with an image of their class among the first `k` hits.

    This is "Recall@K" of metric learning (Jégou et al. 2011; Song et al. 2016, arXiv 1511.06452). The hits of a query
    must not include the query itself: see `without_self`.

    Args:
        found_labels: Classes of the hits, the best first, `(Q, n)`; -1 without a hit.
        query_labels: Classes of the queries, `(Q,)`.
        ks: Numbers of hits to look at, each from 1 to n.

    Returns:
        Recall in [0, 1] for each `k`.

    Raises:
        ValueError: if shapes do not fit, or a `k` is out of range.
    """
    if found_labels.ndim != 2 or query_labels.shape != found_labels.shape[:1] or not len(query_labels):
        raise ValueError(
            "found_labels and query_labels must have shapes (Q, n) and (Q,) with Q at least 1, "
            f"got {tuple(found_labels.shape)} and {tuple(query_labels.shape)}"
        )
    if any(not 1 <= k <= found_labels.shape[1] for k in ks):
        raise ValueError(f"ks must be from 1 to {found_labels.shape[1]}, the number of hits, got {list(ks)}")
    right = found_labels == query_labels[:, None]
    return {k: right[:, :k].any(dim=1).float().mean().item() for k in ks}


def without_self(rows: Tensor, query_rows: Tensor) -> Tensor:
    """Removes each query's own row from its hits.

    Args:
        rows: Rows that were found, `(Q, n)`.
        query_rows: Rows of the queries themselves, `(Q,)`.

    Returns:
        Rows of shape `(Q, n - 1)`. The last hit is removed where a query did not find itself.
    """
    is_self = rows == query_rows[:, None]
    is_self[~is_self.any(dim=1), -1] = True
    return rows[~is_self].view(len(rows), -1) if len(rows) else torch.empty(0, 0, dtype=rows.dtype)
