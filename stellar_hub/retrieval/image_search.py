"""Exact search for images, by one vector per image or by the whole set of tokens."""

import torch

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import set_similarity
from stellar_hub.modeling import StellarModel
from stellar_hub.retrieval.hits import Hits, best_hits, no_hits, unit_queries, unit_vectors
from stellar_hub.retrieval.queries import Queries, as_queries
from stellar_hub.store import FeatureStore


def search_images(
    store: FeatureStore,
    queries: Queries,
    k: int = 10,
    output: str = "pooled",
    model: StellarModel | Backbone | None = None,
    load_model: bool = False,
) -> Hits:
    """Finds the images of a store that are nearest to each query by cosine similarity.

    The search is exact and reads the store once. It never finds rows with an error.

    Args:
        store: Store that holds `output`.
        queries: Vectors of the same model and preprocessing, `(Q, d)`, or `(d,)` for one query: a tensor, an array, or
            a list of either. Their lengths do not matter. Or rows of a store, such as `store[3]`. Or images: a path, a
            PIL image, or a list of these.
        k: Number of images to find for each query. A smaller store returns fewer.
        output: Feature to compare, "pooled" or "cls".
        model: Model that made the store, which encodes queries that are images. None takes the one that
            `store.load_model()` has loaded.
        load_model: Whether to load the model by the name in the store's manifest, once. The name may lead to any folder
            or repository: load only models of stores that you trust.

    Returns:
        The nearest rows and their cosine similarities.

    Raises:
        FileNotFoundError: if the path of an image does not exist.
        KeyError: if the store does not hold the output.
        TypeError: if the store is not a `FeatureStore`, such as its path.
        ValueError: if the queries do not fit.
    """
    unit = unit_queries(as_queries(store, queries, output, model, load_model), store.shape(output), k)
    found = no_hits(len(unit))
    for rows, vectors in unit_vectors(store, output, description="searching"):
        found = best_hits(found, rows, unit @ vectors.T, k)
    return found


def search_sets(
    store: FeatureStore,
    queries: Queries,
    k: int = 10,
    num_candidates: int | None = None,
    epsilon: float = 0.1,
    num_iters: int = 5,
    cost: str = "cosine",
    model: StellarModel | Backbone | None = None,
    load_model: bool = False,
) -> Hits:
    """Finds the images of a store whose sets of tokens are most similar to each query's set.

    The similarity is `stellar_hub.measures.set_similarity`, which matches the tokens by optimal transport. The search
    never finds rows with an error.

    Args:
        store: Store that holds "S", and "pooled" if `num_candidates` is given.
        queries: `S` of each query, `(Q, r, d)`, or `(r, d)` for one query, of the same model and preprocessing: a
            tensor, an array, or a list of either. Or rows of a store, such as `store[3]`. Or images: a path, a PIL
            image, or a list of these.
        k: Number of images to find for each query. A smaller store returns fewer.
        num_candidates: Number of images to match for each query: the nearest ones by pooled vectors. None matches all.
        epsilon: Weight of the entropy in the matching, above 0.
        num_iters: Number of Sinkhorn iterations, at least 1.
        cost: Cost of matching two tokens, "cosine" or "euclidean".
        model: Model that made the store, which encodes queries that are images. None takes the one that
            `store.load_model()` has loaded.
        load_model: Whether to load the model by the name in the store's manifest, once. The name may lead to any folder
            or repository: load only models of stores that you trust.

    Returns:
        The most similar rows and their set similarities.

    Raises:
        KeyError: if the store does not hold a feature that the search needs.
        ValueError: if the queries do not fit, or a parameter is out of range.
    """
    tokens = as_queries(store, queries, "S", model, load_model)
    unit_queries(tokens, store.shape("S"), k)
    if num_candidates is None:
        found = no_hits(len(tokens))
        for rows, others in unit_vectors(store, "S", description="comparing sets"):
            found = best_hits(found, rows, set_similarity(tokens, others, epsilon, num_iters, cost), k)
        return found
    candidates = search_images(store, tokens.float().mean(dim=1), max(k, num_candidates)).rows
    best = []
    for query, rows in zip(tokens.split(1), candidates.sort(dim=1).values, strict=True):
        scores = set_similarity(query, store._view("S", rows), epsilon, num_iters, cost)
        best.append(best_hits(no_hits(1), rows, scores, k))
    return Hits(torch.cat([hits.rows for hits in best]), torch.cat([hits.scores for hits in best]))
