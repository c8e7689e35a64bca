"""Exact search for images by one vector per image."""

from stellar_hub.features.backbones.backbone import Backbone
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
