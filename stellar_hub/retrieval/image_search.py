"""Searching pictures by one vector each: cosine similarity, exact."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from stellar_hub.extraction import FeatureStore
from stellar_hub.retrieval.hits import Hits, best_of, check_queries, no_hits

ROWS_AT_A_TIME = 4096


def search_images(store: FeatureStore, queries: Tensor, k: int = 10, output: str = "pooled") -> Hits:
    """The pictures of a store nearest to each query. The store goes by once; rows with an error are never found.

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
    """Pairs of pictures that are nearly the same.

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
