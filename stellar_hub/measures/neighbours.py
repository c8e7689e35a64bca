"""Classification by weighted nearest neighbours: cosines, votes, and the share of right classes.

The protocol is that of Wu et al. 2018 (arXiv 1805.01978) and DINO (arXiv 2104.14294): cosine similarity, and each of
the `k` nearest features votes for its class with weight `exp(similarity / temperature)`.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_A_TIME = 1024
CROWDED_AT_A_TIME = 64  # queries with more equally near features than places


def knn_predict(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, num_neighbours: int = 20, temperature: float = 0.07
) -> Tensor:
    """Predicts the class of each query from the nearest features of a bank.

    Args:
        queries: Features to classify, `(Q, d)`; their lengths do not matter.
        bank: Features of known class, `(N, d)`.
        bank_labels: Classes of the bank, `(N,)` integers from 0.
        num_neighbours: Number `k` of votes per query, between 1 and `N`.
        temperature: Temperature of the votes, above 0. With a small value the nearest neighbours decide.

    Returns:
        Predicted classes, `(Q,)` int64. Among classes with equal votes it is the smallest.

    Raises:
        ValueError: if shapes do not fit, a parameter is out of range, or a feature is not finite.
    """
    _check_features(queries, bank, bank_labels)
    _check_votes(num_neighbours, len(bank), temperature)
    labels = bank_labels.long()
    num_classes = int(labels.max()) + 1
    votes = [vote(each, labels, (num_neighbours,), num_classes, temperature)[0] for each in similarities(queries, bank)]
    return torch.cat(votes) if votes else labels.new_zeros(0)


def similarities(queries: Tensor, bank: Tensor) -> Iterator[Tensor]:
    """Yields the cosines of some queries after the other with all features of a bank.

    Args:
        queries: Features to look for, `(Q, d)`.
        bank: Features to look among, `(N, d)`.

    Yields:
        Cosines in [-1, 1], `(q, N)`.
    """
    normed_bank = F.normalize(bank.float(), dim=-1)
    for chunk in queries.float().split(QUERIES_AT_A_TIME):
        yield F.normalize(chunk, dim=-1) @ normed_bank.T


def vote(similarity: Tensor, labels: Tensor, counts: Sequence[int], num_classes: int, temperature: float) -> Tensor:
    """Returns the classes that nearest neighbours vote for, each with weight `exp(similarity / temperature)`.

    If several features are exactly as near as the `k`-th neighbour, and there are places for some of them only, they
    share these places equally. Therefore the order of the bank does not matter.

    Args:
        similarity: Similarities of each query with the whole bank, `(Q, N)`.
        labels: Classes of the bank, `(N,)` int64 in [0, num_classes).
        counts: Numbers `k` of neighbours that vote, each between 1 and `N`.
        num_classes: Number of classes.
        temperature: Temperature of the votes, above 0.

    Returns:
        Classes for each `k`, `(len(counts), Q)` int64. Among classes with equal votes it is the smallest.
    """
    nearest, index = similarity.topk(max(counts), dim=-1)
    found = []
    for k in counts:
        weights = (nearest[:, :k] / temperature).softmax(dim=-1)  # exp up to a factor per query, which changes no vote
        votes = weights.new_zeros(len(similarity), num_classes).scatter_add(1, labels[index[:, :k]], weights)
        last = nearest[:, k - 1 : k]
        inside = nearest[:, :k] == last
        crowded = ((similarity == last).sum(dim=1) > inside.sum(dim=1)).nonzero().flatten()
        for rows in crowded.split(CROWDED_AT_A_TIME):
            before = torch.where(inside[rows], 0, weights[rows])
            equal = (similarity[rows] == last[rows]).to(weights.dtype)
            places = (weights[rows] - before).sum(dim=1, keepdim=True) / equal.sum(dim=1, keepdim=True)
            shared = votes.new_zeros(len(rows), num_classes).scatter_add(1, labels[index[rows, :k]], before)
            votes[rows] = shared.scatter_add(1, labels.expand(len(rows), -1), places * equal)
        found.append(votes.argmax(dim=-1))
    return torch.stack(found)


def knn_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Returns the share, in [0, 1], of queries `(Q, d)` whose classes `(Q,)` `knn_predict` finds.

    Raises:
        ValueError: if `knn_predict` raises it, there are no queries, or there is not one label per query.
    """
    if len(queries) == 0 or query_labels.shape != queries.shape[:1]:
        raise ValueError(
            "queries must be at least one feature with one label each, "
            f"got shapes {tuple(queries.shape)} and {tuple(query_labels.shape)}"
        )
    predictions = knn_predict(queries, bank, bank_labels, num_neighbours, temperature)
    return (predictions == query_labels).float().mean().item()


def leave_one_out_accuracy(
    features: Tensor, labels: Tensor, num_neighbours: int = 20, temperature: float = 0.07
) -> float:
    """Returns the share of features whose classes their nearest neighbours find, each without itself as a neighbour.

    Args:
        features: Features, `(N, d)`; their lengths do not matter.
        labels: Their classes, `(N,)` integers from 0.
        num_neighbours: Number `k` of votes per feature, between 1 and `N - 1`.
        temperature: Temperature of the votes, above 0.

    Returns:
        A share in [0, 1]. Good is far above the share of the most frequent class.

    Raises:
        ValueError: if shapes do not fit, a parameter is out of range, or a feature is not finite.
    """
    _check_features(features, features, labels)
    _check_votes(num_neighbours, len(features) - 1, temperature)
    labels = labels.long()
    found = []
    for start, cosines in zip(itertools.count(0, QUERIES_AT_A_TIME), similarities(features, features), strict=False):
        rows = torch.arange(len(cosines), device=cosines.device)
        cosines[rows, start + rows] = -math.inf
        found.append(vote(cosines, labels, (num_neighbours,), int(labels.max()) + 1, temperature)[0])
    return (torch.cat(found) == labels).float().mean().item()


def _check_features(queries: Tensor, bank: Tensor, bank_labels: Tensor) -> None:
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1] or len(bank) == 0:
        raise ValueError(
            "queries and bank must have shapes (Q, d) and (N, d) with N at least 1, "
            f"got {tuple(queries.shape)} and {tuple(bank.shape)}"
        )
    if bank_labels.shape != bank.shape[:1] or bank_labels.is_floating_point() or bank_labels.min() < 0:
        raise ValueError(
            f"bank_labels must be {len(bank)} integers from 0, one for each row of the bank, "
            f"got {bank_labels.dtype} of shape {tuple(bank_labels.shape)}"
        )
    for name, features in (("queries", queries), ("bank", bank)):
        if not features.isfinite().all():
            raise ValueError(f"{name} has values that are not finite: check the features before you classify them")


def _check_votes(num_neighbours: int, largest: int, temperature: float) -> None:
    if not 1 <= num_neighbours <= largest:
        raise ValueError(f"num_neighbours must be between 1 and {largest}, the size of the bank, got {num_neighbours}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
