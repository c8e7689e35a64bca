"""Near-duplicates in a store: pairs of similar rows, and groups with one image to keep of each."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.progress import Progress
from stellar_hub.retrieval.hits import ROWS_AT_A_TIME, check_store, unit_vectors
from stellar_hub.store import FeatureStore
from stellar_hub.store.resume import MANY_ROWS

THRESHOLD = 0.985  # chosen by benchmarks/duplicates.py
MARGIN = 0.15  # pooled vectors of copies are less alike than their sets of tokens by at most this
NEAREST = 32  # kept images that an image is compared with by its tokens
BLOCK = 2048  # images that are decided on together
ROUNDING = 1e-5  # of the similarity of equal sets


class DuplicateGroup(NamedTuple):
    """Images of which one is enough.

    Attributes:
        kept: Row of the image that is kept.
        duplicates: Rows of the others, the most similar first.
        similarities: Similarity of each of them to the image that is kept.
    """

    kept: int
    duplicates: tuple[int, ...]
    similarities: tuple[float, ...]


def group_duplicates(store: FeatureStore, threshold: float = THRESHOLD) -> list[DuplicateGroup]:
    """Groups images that are nearly the same: resized, recompressed, mirrored or slightly cropped copies.

    The function goes through the images from the largest to the smallest, by pixels; of equal ones the earlier row
    comes first. It compares each image with those that it has kept, and keeps it unless one of them is similar. So each
    duplicate is similar to the image that is kept of its group, and a chain of images, each a little like the next,
    does not become one group.

    The similarity of two images is that of their tokens: the cosine of each token and the nearest one of the other
    image, averaged over the tokens of both. Only images with similar pooled vectors are compared in this way. The
    pooled vectors are compared exactly: the time grows with the square of the number of images, and the memory does
    not grow with it, apart from a few numbers for each row.

    Args:
        store: Store that holds "S". "pooled" in it saves time. Rows with an error are left out.
        threshold: Lowest similarity of a duplicate and the image that is kept, in (0, 1].

    Returns:
        Groups of two or more images, those with the least similar duplicate first.

    Raises:
        KeyError: if the store does not hold "S".
        TypeError: if the store is not a `FeatureStore`, such as its path.
        ValueError: if the threshold is out of range.
    """
    check_store(store)
    _check_threshold(threshold)
    store.shape("S")
    search = _Search(store, threshold)
    order = _largest_first(store)
    many = len(order) >= MANY_ROWS
    with Progress(len(order), "image", "looking for duplicates", enabled=many, leave=False) as progress:
        for block in order.split(BLOCK):
            search.decide(block)
            progress.update(len(block))
    return search.groups()


def find_duplicates(
    store: FeatureStore, threshold: float = 0.98, output: str = "pooled"
) -> list[tuple[int, int, float]]:
    """Finds pairs of images whose vectors are nearly the same.

    The function compares each row with each other row. Its time grows with the square of the size of the store.
    `group_duplicates` compares tokens as well, which tells copies from images that are only alike.

    Args:
        store: Store that holds `output`.
        threshold: Lowest cosine similarity of a pair, in (0, 1].
        output: Feature to compare, "pooled" or "cls".

    Returns:
        Pairs as `(row, later row, similarity)`, the most similar first.

    Raises:
        KeyError: if the store does not hold the output.
        ValueError: if the threshold is out of range.
    """
    _check_threshold(threshold)
    pairs = []
    for rows, vectors in unit_vectors(store, output, description="comparing rows"):
        for other_rows, others in unit_vectors(store, output, start=int(rows[0])):
            similarity = vectors @ others.T
            for one, other in ((similarity >= threshold) & (rows[:, None] < other_rows)).nonzero().tolist():
                pairs.append((int(rows[one]), int(other_rows[other]), float(similarity[one, other])))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def token_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Compares pairs of sets of tokens: the cosine with the nearest token of the other set, averaged over both sets.

    Args:
        one: Tokens of length 1, `(P, r, d)`.
        other: Tokens of length 1, `(P, t, d)`.

    Returns:
        Similarities in [-1, 1], `(P,)`; 1 for equal sets in any order.
    """
    cosine = one @ other.mT  # (P, r, t)
    return (cosine.amax(dim=2).mean(dim=1) + cosine.amax(dim=1).mean(dim=1)) / 2


class _Search:
    """Decides which images of a store are kept, and which kept image each other one is a duplicate of."""

    def __init__(self, store: FeatureStore, threshold: float):
        self.store = store
        self.threshold = threshold
        self.near = threshold - MARGIN
        self.kept = torch.zeros(len(store), dtype=torch.bool)
        self.owner = torch.full((len(store),), -1)
        self.similarity = torch.full((len(store),), -1.0)

    def decide(self, block: Tensor) -> None:
        """Decides on rows `(B,)`, after all rows that are preferred to them."""
        vectors = self._pooled(block)
        nearest = self._nearest_kept(vectors)
        places, columns = (nearest >= 0).nonzero(as_tuple=True)
        for place, rows in _by_first(places, nearest[places, columns]):
            self._claim(block[place], self._tokens(block[place, None]), rows)
        similarity = vectors @ vectors.T
        near = (similarity >= self.near) & torch.ones_like(similarity, dtype=torch.bool).tril(-1)
        for place, has_near in enumerate(near.any(dim=1).tolist()):
            row = block[place]
            others = (near[place] & self.kept[block]).nonzero().flatten() if has_near else block[:0]
            if len(others):
                nearest = similarity[place, others].topk(min(NEAREST, len(others))).indices
                self._claim(row, self._tokens(row[None]), block[others[nearest]])
            self.kept[row] = self.owner[row] < 0

    def _claim(self, row: Tensor, tokens: Tensor, others: Tensor) -> None:
        """Makes a row a duplicate of the most similar one of some kept rows, if that is similar enough."""
        best, place = token_similarity(tokens, self._tokens(others)).clamp(max=1).max(dim=0)
        if best >= self.threshold - ROUNDING and best > self.similarity[row]:
            self.owner[row], self.similarity[row] = others[place], best

    def _nearest_kept(self, vectors: Tensor) -> Tensor:
        """Returns the kept rows with the nearest pooled vectors, `(B, NEAREST)`; -1 where no more are near."""
        scores = torch.full((len(vectors), NEAREST), -2.0)
        rows = torch.full((len(vectors), NEAREST), -1)
        for chunk in self.kept.nonzero().flatten().split(ROWS_AT_A_TIME):
            similarity = vectors @ self._pooled(chunk).T
            some = (similarity >= self.near).any(dim=1).nonzero().flatten()
            best, places = similarity[some].topk(min(NEAREST, len(chunk)), dim=1)
            more = torch.where(best >= self.near, chunk[places], -1)
            scores[some], order = torch.cat([scores[some], best], dim=1).topk(NEAREST, dim=1)
            rows[some] = torch.cat([rows[some], more], dim=1).gather(1, order)
        return rows

    def _pooled(self, rows: Tensor) -> Tensor:
        """Returns the pooled vectors of rows at length 1, `(N, d)`."""
        if "pooled" in self.store.outputs:
            return F.normalize(self.store.read("pooled", rows).float(), dim=-1)
        return F.normalize(self.store.read("S", rows).float().mean(dim=1), dim=-1)

    def _tokens(self, rows: Tensor) -> Tensor:
        """Returns the tokens of rows at length 1, `(N, r, d)`."""
        return F.normalize(self.store.read("S", rows).float(), dim=-1)

    def groups(self) -> list[DuplicateGroup]:
        """Returns the groups, those with the least similar duplicate first."""
        members: dict[int, list[tuple[float, int]]] = {}
        for row in (self.owner >= 0).nonzero().flatten().tolist():
            members.setdefault(int(self.owner[row]), []).append((-float(self.similarity[row]), row))
        groups = []
        for kept, found in members.items():
            similarities, rows = zip(*sorted(found), strict=True)
            groups.append(DuplicateGroup(kept, rows, tuple(-each for each in similarities)))
        return sorted(groups, key=lambda group: (group.similarities[-1], group.kept))


def _by_first(places: Tensor, rows: Tensor) -> list[tuple[int, Tensor]]:
    """Returns each place with its rows; places are ascending."""
    found, counts = places.unique_consecutive(return_counts=True)
    return list(zip(found.tolist(), rows.split(counts.tolist()), strict=True))


def _largest_first(store: FeatureStore) -> Tensor:
    """Returns the rows without an error, the largest by pixels first; of equal ones the earlier row comes first."""
    sizes = [
        record.original_size or (0, 0)
        for batch in store.batches(ROWS_AT_A_TIME, outputs=())
        for record in batch.records
    ]
    pixels = torch.tensor([height * width for height, width in sizes], dtype=torch.int64)
    rows = store.ok.nonzero().flatten()
    return rows[pixels[rows].argsort(descending=True, stable=True)]


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
