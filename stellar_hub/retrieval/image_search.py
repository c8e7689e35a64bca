"""Searching images by one vector each: cosine similarity, exact."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.store.feature_store import FeatureStore


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


ROWS_AT_A_TIME = 4096


def search_images(store: FeatureStore, queries: Tensor, k: int = 10, output: str = "pooled") -> Hits:
    """The images of a store nearest to each query. The store goes by once; rows with an error are never found.

    Args:
        store: It must hold `output`.
        queries: Vectors `(Q, d)` of the same model and preprocessing; their lengths do not matter.
        k: How many to find; fewer come back from a smaller store.
        output: What to compare: "pooled" or "cls".

    Raises:
        KeyError: if the store does not hold the output.
        ValueError: if the queries do not fit.
    """
    normed = check_queries(queries, store.shape(output), k)
    found = no_hits(len(normed))
    for rows, vectors in normed_vectors(store, output):
        found = best_of(found, rows, normed @ vectors.T, k)
    return found


def find_duplicates(
    store: FeatureStore, threshold: float = 0.98, output: str = "pooled"
) -> list[tuple[int, int, float]]:
    """Pairs of images that are nearly the same.

    Args:
        store: It must hold `output`.
        threshold: Least cosine similarity, in (0, 1].
        output: What to compare: "pooled" or "cls".

    Returns:
        `(row, later row, similarity)`, the most similar first. Each row is compared with each: the time grows with
        the square of the store.

    Raises:
        KeyError: if the store does not hold the output.
        ValueError: if the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    pairs = []
    for rows, vectors in normed_vectors(store, output):
        for other_rows, others in normed_vectors(store, output, start=int(rows[0])):
            similarity = vectors @ others.T
            for one, other in ((similarity >= threshold) & (rows[:, None] < other_rows)).nonzero().tolist():
                pairs.append((int(rows[one]), int(other_rows[other]), float(similarity[one, other])))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def normed_vectors(store: FeatureStore, output: str, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows from `start` on that have features, `(N,)`, and their unit vectors, `(N, ..., d)`, part by part."""
    ok = store.ok
    for first in range(start, len(store), ROWS_AT_A_TIME):
        part = range(first, min(first + ROWS_AT_A_TIME, len(store)))
        kept = ok[part.start : part.stop]
        vectors = store.read(output, part)[kept].float()
        if len(vectors):
            yield kept.nonzero().flatten() + first, F.normalize(vectors, dim=-1)
