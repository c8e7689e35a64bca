"""Exact search by one concept: a token finds images with a similar token, and where in them it is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stellar_hub.modeling.input_checks import resolve_grid_size
from stellar_hub.retrieval.hits import best_places, check_store, unit_queries, unit_vectors
from stellar_hub.retrieval.queries import as_features, spell_shape
from stellar_hub.store import FeatureStore


class ConceptHits(NamedTuple):
    """The images that a search found for each query token, the best first.

    Attributes:
        rows: Rows of the store, `(Q, k)` int64.
        tokens: Index of the token of each row that is most similar to the query, `(Q, k)` int64.
        scores: Cosine similarity of this token and the query, `(Q, k)` float32.
    """

    rows: Tensor
    tokens: Tensor
    scores: Tensor


def search_concepts(
    store: FeatureStore, queries: Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray], k: int = 10
) -> ConceptHits:
    """Finds the images of a store that have the token nearest to each query.

    The search is exact and reads the store once. It never finds rows with an error.

    Args:
        store: Store that holds "S".
        queries: Tokens of the same model and preprocessing, `(Q, d)`, or `(d,)` for one query, as a tensor, an array,
            or a list of either: rows of the `S` of some images.
        k: Number of images to find for each query. A smaller store returns fewer.

    Returns:
        For each query the best rows, and of each row the best token.

    Raises:
        KeyError: if the store does not hold "S".
        TypeError: if the queries are not tokens.
        ValueError: if the queries do not fit.
    """
    check_store(store)
    shape = store.shape("S")[1:]
    tokens = as_features(queries, shape)
    if tokens is None:
        raise TypeError(
            f"queries must be tokens {spell_shape(shape)} as a tensor or an array, got {type(queries).__name__}: take "
            "rows of the S of an image, as in model.encode(pixel_values).semantics[0]"
        )
    unit = unit_queries(tokens, shape, k)
    found = ConceptHits(*(torch.empty(len(unit), 0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float32)))
    for rows, tokens in unit_vectors(store, "S", description="searching"):
        scores, best_tokens = torch.einsum("qd,ntd->qnt", unit, tokens).max(dim=2)
        parts = zip(found, (rows.expand(len(unit), -1), best_tokens, scores), strict=True)
        together = ConceptHits(*(torch.cat(part, dim=1) for part in parts))
        order = best_places(together.scores, k)
        found = ConceptHits(*(column.gather(1, order) for column in together))
    return found


def token_at(localization: Tensor, place: tuple[float, float], grid_size: tuple[int, int] | None = None) -> int:
    """Returns the index of the token that a place of an image belongs to most.

    Args:
        localization: `L` of one image, `(n, r)`.
        place: Distance from the top and from the left of what the model saw, each in [0, 1].
        grid_size: Rows and columns of patches, `(h, w)`. It may be None if the grid is square.

    Raises:
        ValueError: if the place is outside of the image.
    """
    height, width = resolve_grid_size(localization.shape[0], grid_size)
    if not all(0 <= part <= 1 for part in place):
        raise ValueError(f"place must be in [0, 1] from the top and from the left, got {place}")
    row, column = min(int(place[0] * height), height - 1), min(int(place[1] * width), width - 1)
    return int(localization[row * width + column].argmax())


def place_in_crop(pixel: tuple[float, float], crop_box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Turns a pixel `(row, column)` of the original image into a place in what the model saw.

    Args:
        pixel: Row and column in the original image.
        crop_box: Part that the model saw, `(top, left, bottom, right)` in pixels of the original image.

    Returns:
        Distance from the top and from the left, each in [0, 1].

    Raises:
        ValueError: if the model did not see the pixel.
    """
    top, left, bottom, right = crop_box
    place = ((pixel[0] - top) / (bottom - top), (pixel[1] - left) / (right - left))
    if not all(0 <= part <= 1 for part in place):
        raise ValueError(
            f"the model did not see the pixel {pixel}: it saw rows {top:.0f} to {bottom:.0f} and columns {left:.0f} to "
            f"{right:.0f}"
        )
    return place
