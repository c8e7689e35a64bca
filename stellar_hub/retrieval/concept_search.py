"""Searching by one concept: a token finds images that have one like it, and where in them it is."""

from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.modeling.input_checks import resolve_grid_size
from stellar_hub.retrieval.image_search import check_queries, normed_vectors
from stellar_hub.store.feature_store import FeatureStore


class ConceptHits(NamedTuple):
    """The best images for each query token, best first.

    Attributes:
        rows: Rows of the store, `(Q, k)` int64.
        tokens: For each, the token that is most like the query, `(Q, k)` int64.
        scores: Its cosine similarity to the query, `(Q, k)` float32.
    """

    rows: Tensor
    tokens: Tensor
    scores: Tensor


def search_concepts(store: FeatureStore, queries: Tensor, k: int = 10) -> ConceptHits:
    """The images of a store with a token nearest to each query. Rows with an error are never found.

    Args:
        store: It must hold "S".
        queries: Tokens `(Q, d)`, rows of some images' `S`, of the same model and preprocessing.
        k: How many images to find; fewer come back from a smaller store.

    Raises:
        KeyError: if the store does not hold "S".
        ValueError: if the queries do not fit.
    """
    normed = check_queries(queries, store.shape("S")[1:], k)
    found = ConceptHits(
        *(torch.empty(len(normed), 0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float32))
    )
    for rows, tokens in normed_vectors(store, "S"):
        scores, best_tokens = torch.einsum("qd,ntd->qnt", normed, tokens).max(dim=2)
        parts = zip(found, (rows.expand(len(normed), -1), best_tokens, scores), strict=True)
        together = ConceptHits(*(torch.cat(part, dim=1) for part in parts))
        order = together.scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        found = ConceptHits(*(column.gather(1, order) for column in together))
    return found


def token_at(localization: Tensor, place: tuple[float, float], grid_size: tuple[int, int] | None = None) -> int:
    """The token that a place of an image belongs to most.

    Args:
        localization: `L` of one image, `(n, r)`.
        place: From the top and from the left, each in [0, 1], in what the model saw.
        grid_size: `(h, w)`; needed where the grid is not square.

    Raises:
        ValueError: if the place is outside.
    """
    height, width = resolve_grid_size(localization.shape[0], grid_size)
    if not all(0 <= part <= 1 for part in place):
        raise ValueError(f"a place must lie in [0, 1] from the top and from the left, got {place}")
    row, column = min(int(place[0] * height), height - 1), min(int(place[1] * width), width - 1)
    return int(localization[row * width + column].argmax())


def place_in_crop(pixel: tuple[float, float], crop_box: tuple[float, float, float, float]) -> tuple[float, float]:
    """A pixel `(row, column)` of the original as a place in what the model saw.

    Raises:
        ValueError: if the model did not see it.
    """
    top, left, bottom, right = crop_box
    place = ((pixel[0] - top) / (bottom - top), (pixel[1] - left) / (right - left))
    if not all(0 <= part <= 1 for part in place):
        raise ValueError(
            f"the model did not see the pixel {pixel}: it saw rows {top:.0f} to {bottom:.0f} and columns {left:.0f} to "
            f"{right:.0f}"
        )
    return place
