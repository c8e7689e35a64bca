"""`FeatureStore.search`: one call for queries of all kinds, which takes them to the search that fits."""

from typing import Any

import numpy as np
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.names import FEATURES, POOLINGS
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.retrieval.hits import Hits
from stellar_hub.retrieval.image_search import search_images
from stellar_hub.retrieval.queries import are_numbers, is_image
from stellar_hub.retrieval.set_search import search_sets
from stellar_hub.store import FeatureStore

_OF_EMBED = {"mean": "pooled", "tokens": "S"}  # words of `model.embed`, and the features that they are


def search_store(
    store: FeatureStore,
    queries: Any,
    k: int = 10,
    by: str | None = None,
    model: StellarModel | Backbone | None = None,
    load_model: bool = False,
) -> Hits:
    """Finds the images of a store that are most like each query, as `FeatureStore.search` describes it.

    Raises:
        The errors of `search_images` and `search_sets`; ValueError if the queries may be vectors and tokens.
    """
    # By its field, not by its class: a model that came with its own code has a class of its own.
    queries = getattr(queries, "semantics", queries)
    output = _output_of(store, queries) if by is None else _checked(store, by)
    if FEATURES[output].kind == "set":
        return search_sets(store, queries, k, model=model, load_model=load_model)
    return search_images(store, queries, k, output, model, load_model)


def _checked(store: FeatureStore, by: str) -> str:
    """Returns the name of a feature that images are compared by.

    Raises:
        KeyError: if the store does not hold it.
        ValueError: if it is of patches, or a word of `model.embed`.
    """
    offered = ", ".join(name for name in POOLINGS if name in store.outputs) or "none"
    if by in _OF_EMBED:
        raise ValueError(f"by must be a feature of the store, got {by!r}: it is called {_OF_EMBED[by]!r} there")
    store.shape(by)
    if by not in POOLINGS:
        raise ValueError(f"by must be a vector or a set of tokens ({offered}), got {one_line(repr(by))}")
    return by


def _output_of(store: FeatureStore, queries: Any) -> str:
    """Returns the feature that queries are compared by if the user named none.

    Raises:
        KeyError: if the store holds no feature that compares images.
        ValueError: if the queries may be as many vectors as an image has tokens, or one set of tokens.
    """
    vectors = [name for name in POOLINGS if name in store.outputs and FEATURES[name].kind == "vector"]
    shape = _shape_of(queries)
    set_shape = store.shape("S") if "S" in store.outputs else ()
    may_be_set = bool(set_shape) and (shape == set_shape or (len(shape) == 3 and shape[2] == set_shape[1]))
    if may_be_set and len(shape) == 2 and vectors:
        raise ValueError(
            f"queries of shape {shape} may be {shape[0]} vectors or one set of {shape[0]} tokens: pass "
            f'by={vectors[0]!r} or by="S"'
        )
    if set_shape and (may_be_set or not vectors):
        return "S"
    if not vectors:
        raise KeyError(
            f"{store.path} holds {', '.join(store.outputs)}, and no feature that compares images: extract pooled or S "
            "with --outputs into another folder"
        )
    return vectors[0]


def _shape_of(queries: Any) -> tuple[int, ...]:
    """Returns the shape of queries that are numbers, and () for others, such as images."""
    if is_image(queries):
        return ()
    if isinstance(queries, Tensor | np.ndarray):
        return tuple(queries.shape)
    if isinstance(queries, list | tuple) and queries and isinstance(queries[0], Tensor | np.ndarray):
        return (len(queries), *queries[0].shape)
    if isinstance(queries, list | tuple) and are_numbers(queries):
        return np.shape(queries)
    return ()
