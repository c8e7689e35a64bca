"""Classification by weighted nearest neighbours: what frozen features tell without any training.

The protocol is that of Wu et al. 2018 (arXiv 1805.01978), which DINO and its followers report: cosine similarity, and
each of the `k` nearest votes for its class with weight `exp(similarity / temperature)`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_A_TIME = 1024


def knn_predict(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, num_neighbours: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class that the nearest features of a bank vote for.

    Args:
        queries: Features `(Q, d)`; their lengths do not matter.
        bank: Features of known class, `(N, d)`.
        bank_labels: Their classes, `(N,)`, integers from 0.
        num_neighbours: Number `k` of votes for each query, between 1 and `N`.
        temperature: Above 0; small values let the nearest decide.

    Returns:
        Classes, `(Q,)` int64; of classes with equal votes the smallest.

    Raises:
        ValueError: if shapes do not fit, a parameter is out of range, or a feature is not finite.
    """
    _check_features(queries, bank, bank_labels)
    if not 1 <= num_neighbours <= len(bank):
        raise ValueError(
            f"num_neighbours must be between 1 and {len(bank)}, the size of the bank, got {num_neighbours}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    labels = bank_labels.long()
    nearest, index = nearest_neighbours(queries, bank, num_neighbours)
    return vote(nearest, labels[index], int(labels.max()) + 1, temperature)


def nearest_neighbours(queries: Tensor, bank: Tensor, num_neighbours: int) -> tuple[Tensor, Tensor]:
    """The features of a bank that are nearest to each query by cosine, the nearest first.

    Args:
        queries: `(Q, d)`.
        bank: `(N, d)`.
        num_neighbours: `k`, between 1 and `N`.

    Returns:
        Cosines in [-1, 1] and indices into the bank, both `(Q, k)`.
    """
    normed_bank = F.normalize(bank.float(), dim=-1)
    found = [
        (F.normalize(chunk, dim=-1) @ normed_bank.T).topk(num_neighbours, dim=-1)  # of (q, N)
        for chunk in queries.float().split(QUERIES_AT_A_TIME)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def vote(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """The class that neighbours vote for, each with weight `exp(similarity / temperature)`.

    Args:
        similarity: `(Q, k)`.
        labels: Classes of the neighbours, `(Q, k)` int64.
        num_classes: Classes are below this.
        temperature: Above 0.

    Returns:
        Classes, `(Q,)` int64; of classes with equal votes the smallest.
    """
    weights = (similarity / temperature).softmax(dim=-1)  # exp up to a factor per query, which changes no vote
    votes = weights.new_zeros(len(similarity), num_classes).scatter_add(1, labels, weights)
    return votes.argmax(dim=-1)


def knn_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of the queries, `(Q, d)`, whose class, `(Q,)`, the nearest neighbours tell; see `knn_predict`.

    Raises:
        ValueError: as `knn_predict`, or if there are no queries, or not one label for each.
    """
    if len(queries) == 0 or query_labels.shape != queries.shape[:1]:
        raise ValueError(
            f"there must be queries, with one label each, got {tuple(queries.shape)} and {tuple(query_labels.shape)}"
        )
    predictions = knn_predict(queries, bank, bank_labels, num_neighbours, temperature)
    return (predictions == query_labels).float().mean().item()


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
            raise ValueError(f"{name} holds values that are not finite: look at the features before classifying them")
