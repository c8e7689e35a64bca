"""Searching images by their sets of tokens: each token of one is matched to a token of the other.

Matching is entropic optimal transport (`stellar_hub.matching`), as in STELLAR's training (arXiv 2602.01905), between
tokens of length 1: a token that only one of two images has counts against them, whatever the mean of all tokens says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.retrieval.image_search import Hits, best_of, check_queries, no_hits, normed_vectors, search_images
from stellar_hub.store.feature_store import FeatureStore

EPSILON = 0.05
NUM_ITERS = 10
PAIRS_AT_A_TIME = 4096


def set_similarity(query: Tensor, sets: Tensor, epsilon: float = EPSILON, num_iters: int = NUM_ITERS) -> Tensor:
    """Similarity of a set of tokens to others: the mean cosine of tokens that are matched.

    Args:
        query: Tokens `(q, d)`.
        sets: Tokens of other images, `(N, t, d)`.
        epsilon: Weight of the entropy, above 0: small values match more sharply.
        num_iters: Sinkhorn iterations.

    Returns:
        `(N,)` in [-1, 1], float32: for each column of the plan, whose entries sum to 1, the cosine it expects; their
        mean.

    Raises:
        ValueError: if shapes do not fit, or a parameter is out of range.
    """
    if query.ndim != 2 or sets.ndim != 3 or query.shape[1] != sets.shape[2]:
        raise ValueError(
            f"query and sets must have shapes (q, d) and (N, t, d), got {tuple(query.shape)} and {tuple(sets.shape)}"
        )
    query, sets = F.normalize(query.float(), dim=-1), F.normalize(sets.float(), dim=-1)
    parts = [query.new_empty(0)]
    for part in sets.split(PAIRS_AT_A_TIME):
        queries = query.expand(len(part), -1, -1)
        _, plan = match_tokens(queries, part, epsilon, num_iters)  # (n, q, t)
        parts.append((plan * (queries @ part.transpose(1, 2))).sum(dim=1).mean(dim=1))
    return torch.cat(parts)


def search_sets(
    store: FeatureStore,
    queries: Tensor,
    k: int = 10,
    num_candidates: int | None = None,
    epsilon: float = EPSILON,
    num_iters: int = NUM_ITERS,
) -> Hits:
    """The images of a store whose tokens match each query's best; rows with an error are never found.

    Args:
        store: It must hold "S", and "pooled" for candidates.
        queries: `S` of each query, `(Q, q, d)`, of the same model and preprocessing.
        k: How many to find; fewer come back from a smaller store.
        num_candidates: Match only these many images for each query, the nearest by pooled vectors; None matches all.
        epsilon: As for `set_similarity`.
        num_iters: Likewise.

    Raises:
        KeyError: if the store does not hold "S".
        ValueError: if the queries do not fit.
    """
    check_queries(queries, store.shape("S"), k)
    if num_candidates is None:
        found = no_hits(len(queries))
        for rows, tokens in normed_vectors(store, "S"):
            scores = torch.stack([set_similarity(query, tokens, epsilon, num_iters) for query in queries])
            found = best_of(found, rows, scores, k)
        return found
    candidates = search_images(store, queries.float().mean(dim=1), max(k, num_candidates)).rows
    best = []
    for query, rows in zip(queries, candidates.sort(dim=1).values, strict=True):
        scores = set_similarity(query, store.read("S", rows.tolist()), epsilon, num_iters)
        best.append(best_of(no_hits(1), rows, scores[None], k))
    return Hits(torch.cat([hits.rows for hits in best]), torch.cat([hits.scores for hits in best]))
