"""Search by the whole set of tokens: late interaction (MaxSim) or optimal transport, with every image or with some."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.identity import choose_device
from stellar_hub.measures import maxsim, set_similarity
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import track
from stellar_hub.retrieval.hits import ROWS_AT_A_TIME, Hits, best_hits, no_hits, unit_queries
from stellar_hub.retrieval.image_search import search_images
from stellar_hub.retrieval.queries import Queries, as_queries
from stellar_hub.store import FeatureStore
from stellar_hub.store.resume import MANY_ROWS

MAXSIM, TRANSPORT = SIMILARITIES = ("maxsim", "transport")
QUERIES_AT_A_TIME = 1024

# From sets `(Q, r, d)` and other sets `(N, r, d)` to similarities `(Q, N)`.
Similarity = Callable[[Tensor, Tensor], Tensor]


def search_sets(
    store: FeatureStore,
    queries: Queries,
    k: int = 10,
    similarity: str = MAXSIM,
    num_candidates: int | None = None,
    candidates: Tensor | None = None,
    epsilon: float | None = None,
    num_iters: int | None = None,
    cost: str | None = None,
    model: StellarModel | Backbone | None = None,
    load_model: bool = False,
    device: str | torch.device | None = None,
) -> Hits:
    """Finds the images of a store whose sets of tokens are most similar to each query's set.

    Each token of the query takes the most similar token of the other image, and the similarity is the sum of their
    cosines (`stellar_hub.measures.maxsim`, the late interaction of ColBERT and of vector databases). With
    `similarity="transport"` it is `stellar_hub.measures.set_similarity`, which matches the tokens one to one and takes
    much longer. The default was transport before: its scores are at most 1, and those of MaxSim at most the number of a
    query's tokens.

    The search is exact among the images that it compares, all of them unless there are candidates. It reads the store
    once and never finds rows with an error.

    Args:
        store: Store that holds "S", and "pooled" if `num_candidates` is given.
        queries: `S` of each query, `(Q, r, d)`, or `(r, d)` for one query, of the same model and preprocessing: a
            tensor, an array, or a list of either. Or rows of a store, such as `store[3]`. Or images: a path, a PIL
            image, or a list of these.
        k: Number of images to find for each query. A smaller store returns fewer.
        similarity: How two sets are compared, "maxsim" or "transport".
        num_candidates: Number of images to compare with each query, at least 1: the nearest ones by pooled vectors.
            None compares all.
        candidates: Rows to compare with each query, `(Q, c)`, which another search found, as `index.search` of an
            `ApproximateIndex` does. None compares all; the row -1 is passed over.
        epsilon: Weight of the entropy in the matching of "transport", above 0; None is 0.1.
        num_iters: Number of Sinkhorn iterations of "transport", at least 1; None is 5.
        cost: Cost of matching two tokens in "transport", "cosine" or "euclidean"; None is "cosine".
        model: Model that made the store, which encodes queries that are images. None takes the one that
            `store.load_model()` has loaded.
        load_model: Whether to load the model by the name in the store's manifest, once. The name may lead to any folder
            or repository: load only models of stores that you trust.
        device: Device that compares the sets. None is a GPU if there is one, else the CPU.

    Returns:
        The most similar rows and their similarities: with "maxsim" in [-r, r], where `r` is the number of a query's
        tokens, with "transport" in [-1, 1]. A hit that is missing, because a query has too few candidates, has the row
        -1 and a score of minus infinity.

    Raises:
        KeyError: if the store does not hold a feature that the search needs.
        ValueError: if the queries or the candidates do not fit, a parameter is out of range, or one of "transport" is
            given for "maxsim".
    """
    compare = _similarity(similarity, epsilon, num_iters, cost)
    place = choose_device("auto" if device is None else str(device))
    tokens = as_queries(store, queries, "S", model, load_model)
    unit_queries(tokens, store.shape("S"), k)
    if candidates is not None:
        if num_candidates is not None:
            raise ValueError("give num_candidates, which chooses candidates by pooled vectors, or candidates, not both")
        return _best_of(store, tokens, _known_rows(store, candidates, len(tokens)), k, compare, place)
    if num_candidates is None:
        return _best_of_all(store, tokens, k, compare, place)
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, or None to compare all images, got {num_candidates}")
    nearest = search_images(store, tokens.float().mean(dim=1), max(k, num_candidates)).rows
    return _best_of(store, tokens, nearest.sort(dim=1).values, k, compare, place)


def _similarity(name: str, epsilon: float | None, num_iters: int | None, cost: str | None) -> Similarity:
    """Returns the function that compares sets.

    Raises:
        ValueError: if there is none of this name, or it does not take a parameter that is given.
    """
    given = {"epsilon": epsilon, "num_iters": num_iters, "cost": cost}
    options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if name == TRANSPORT:
        return partial(set_similarity, **options)
    if name != MAXSIM:
        hint = f"; a number of candidates is num_candidates={name}" if isinstance(name, int) else ""
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {one_line(repr(name))}{hint}")
    if options:
        raise ValueError(f"{', '.join(options)} belongs to optimal transport: pass similarity={TRANSPORT!r} as well")
    return maxsim


def _best_of_all(store: FeatureStore, queries: Tensor, k: int, compare: Similarity, device: str) -> Hits:
    """Compares queries with all rows, a part of a shard at a time."""
    blocks = [block.to(device) for block in queries.split(QUERIES_AT_A_TIME)]
    found = [no_hits(len(block)) for block in blocks]
    ok = store.ok
    starts = range(0, len(store), ROWS_AT_A_TIME)
    for first in track(starts, "comparing sets", unit="part", enabled=len(store) >= MANY_ROWS):
        for rows, tokens in _parts(store, first):
            kept = ok[rows.start : rows.stop]
            numbers, there = kept.nonzero().flatten() + rows.start, tokens.to(device)
            found = [
                best_hits(each, numbers, compare(block, there).cpu()[:, kept], k)
                for each, block in zip(found, blocks, strict=True)
            ]
    return _joined(found) if found else no_hits(0)


def _parts(store: FeatureStore, first: int) -> Iterator[tuple[range, Tensor]]:
    """Yields the rows of a chunk that begins at `first`, a range inside a shard at a time, and their stored `S`.

    The tokens lie in the memory map of the shard. Integers are without their scales, which change no cosine.
    """
    for tokens in store._parts("S", range(first, min(first + ROWS_AT_A_TIME, len(store))), scaled=False):
        yield range(first, first + len(tokens)), tokens
        first += len(tokens)


def _best_of(
    store: FeatureStore, queries: Tensor, candidates: Tensor, k: int, compare: Similarity, device: str
) -> Hits:
    """Compares each query with its own candidates: `(Q, c)`, ascending, -1 for none."""
    scores = torch.full(candidates.shape, -torch.inf)
    wanted = candidates.unique()
    chunks = wanted[wanted >= 0].split(ROWS_AT_A_TIME)
    queries = queries.to(device)
    for rows in track(chunks, "comparing sets", unit="part", enabled=len(wanted) >= MANY_ROWS):
        if not len(rows):
            continue
        tokens = _stored_tokens(store, rows).to(device)
        inside = (candidates >= rows[0]) & (candidates <= rows[-1])
        for query in inside.any(dim=1).nonzero().flatten().tolist():
            own = inside[query]
            places = torch.searchsorted(rows, candidates[query, own]).to(device)
            scores[query, own] = compare(queries[query : query + 1], tokens[places])[0].cpu()
    best = best_hits(no_hits(len(queries)), candidates, scores, k)
    return Hits(best.rows.masked_fill(best.scores == -torch.inf, -1), best.scores)


def _stored_tokens(store: FeatureStore, rows: Tensor) -> Tensor:
    """Returns the stored `S` of rows in ascending order, gathered from one view of each shard."""
    gathered = []
    for first in (rows // ROWS_AT_A_TIME).unique().tolist():
        for part, tokens in _parts(store, first * ROWS_AT_A_TIME):
            gathered.append(tokens[rows[(rows >= part.start) & (rows < part.stop)] - part.start])
    return torch.cat(gathered)


def _known_rows(store: FeatureStore, candidates: Tensor, num_queries: int) -> Tensor:
    """Returns candidates in ascending order, `(Q, c)`, with -1 in the place of repeated rows and rows with an error.

    Raises:
        ValueError: if they do not fit the queries or the store.
    """
    rows = torch.as_tensor(candidates).cpu()
    if rows.ndim != 2 or len(rows) != num_queries or rows.is_floating_point():
        raise ValueError(
            f"candidates must be rows (Q, c) for {num_queries} queries, got the shape {tuple(rows.shape)} and "
            f"{rows.dtype}"
        )
    if rows.numel() and (rows.min() < -1 or rows.max() >= len(store)):
        raise ValueError(
            f"candidates must be rows from 0 to {len(store) - 1}, or -1 for none, got {int(rows.min())} to "
            f"{int(rows.max())}"
        )
    rows = rows.long().sort(dim=1).values
    repeated = torch.zeros_like(rows, dtype=torch.bool)
    repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
    return rows.masked_fill(repeated | ~store.ok[rows.clamp(min=0)], -1).sort(dim=1).values


def _joined(found: list[Hits]) -> Hits:
    return Hits(torch.cat([each.rows for each in found]), torch.cat([each.scores for each in found]))
