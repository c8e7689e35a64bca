"""Classification by weighted nearest neighbours: what frozen features tell without any training.

The protocol is that of Wu et al. 2018 (arXiv 1805.01978) and DINO (arXiv 2104.14294): cosine similarity, and each of
the `k` nearest training images votes for its class with weight `exp(similarity / temperature)`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.protocols.classification import (
    SET,
    accuracy,
    check_poolings,
    choose_poolings,
    class_accuracy,
    confusion_figure,
    most_frequent_class,
    pooled_features,
)
from stellar_hub.evaluation.readable import evaluate_readable
from stellar_hub.evaluation.report import Measurement, Report, make_report
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import set_similarity

USUAL_NEIGHBOURS = (10, 20, 100, 200)
QUERIES_AT_A_TIME = 1024
SETS_AT_A_TIME = 16
CROWDED_AT_A_TIME = 64  # queries with more equally near features than places


@dataclass(frozen=True)
class KnnProtocol:
    """The choices of classification by nearest neighbours.

    Attributes:
        num_neighbours: Values of `k` to report. Empty means those of 10, 20, 100 and 200 that do not exceed the number
            of training images.
        temperature: Temperature of the votes, above 0.
        poolings: Features to evaluate, names of `POOLINGS`. Empty means all features of a model that are one vector. A
            model that has none of the named features is evaluated with its first one.
        center: Whether the mean of the training features is subtracted from all features.
        similarity: Similarity of vectors; "cosine" is the only choice. Sets of tokens are compared by
            `set_similarity`.
        set_epsilon: Weight of the entropy term when sets are matched.
        set_num_iters: Number of Sinkhorn iterations when sets are matched.

    Raises:
        ValueError: if a value is out of range.
    """

    num_neighbours: tuple[int, ...] = ()
    temperature: float = 0.07
    poolings: tuple[str, ...] = ()
    center: bool = False
    similarity: str = "cosine"
    set_epsilon: float = 0.1
    set_num_iters: int = 5

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.num_neighbours):
            raise ValueError(f"k must be at least 1, got {', '.join(map(str, self.num_neighbours))}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.similarity != "cosine":
            raise ValueError(f"similarity must be 'cosine', got {self.similarity!r}")
        check_poolings(self.poolings)

    def resolved(self, num_train: int) -> "KnnProtocol":
        """Returns the protocol with the values of `k` that fit a number of training images.

        Raises:
            ValueError: if a given `k` exceeds that number, or all usual values do.
        """
        too_large = [k for k in self.num_neighbours if k > num_train]
        if too_large:
            raise ValueError(
                f"k = {too_large[0]} exceeds the {num_train} images of train: pass --k {num_train} or less"
            )
        fitting = tuple(sorted(set(self.num_neighbours))) or tuple(k for k in USUAL_NEIGHBOURS if k <= num_train)
        if not fitting:
            raise ValueError(
                f"train has {num_train} images, fewer than the smallest default k, {USUAL_NEIGHBOURS[0]}: "
                f"pass --k {num_train} or less"
            )
        return replace(self, num_neighbours=fitting)


def evaluate_knn(backbones: Sequence[Backbone], splits: Splits, protocol: KnnProtocol, run: RunSettings) -> Report:
    """Evaluates models by the nearest neighbours of their pooled features.

    Args:
        backbones: Models to evaluate, the most important one first: its confusion matrix is drawn.
        splits: Labelled images, train and test.
        protocol: Choices that decide what is measured.
        run: Choices that decide how it is computed.

    Returns:
        A report with one row per model and pooling; the columns are accuracies in percent for each `k`.

    Raises:
        ValueError: if `k` does not fit the data, too few images can be read, or a feature is not finite.
    """
    report, _ = evaluate_readable(splits, backbones, run, lambda data: measure_knn(backbones, data, protocol, run))
    return report


def measure_knn(backbones: Sequence[Backbone], splits: Splits, protocol: KnnProtocol, run: RunSettings) -> Report:
    """Evaluates models as `evaluate_knn` does, but raises UnreadableImagesError for an image that cannot be read."""
    resolved = protocol.resolved(len(splits.train))
    notes = splits.notes()
    left_out = [k for k in USUAL_NEIGHBOURS if not protocol.num_neighbours and k not in resolved.num_neighbours]
    if left_out:
        notes.append(f"k = {', '.join(map(str, left_out))} left out: train has {len(splits.train)} images")
    rows: list[Measurement] = []
    images: dict[str, Image.Image] = {}
    for backbone in backbones:
        poolings = choose_poolings(backbone, resolved.poolings, with_sets=True)
        train, test = pooled_features(backbone, splits, poolings, run)
        for pooling in poolings:
            predictions = _predict(train.features[pooling], test.features[pooling], splits, resolved, run)
            rows.append(_row(backbone.name, pooling, predictions, splits))
            if not images:
                shown = resolved.num_neighbours[0]
                title = f"{backbone.name}, {pooling}, k = {shown}"
                images["knn-confusion"] = confusion_figure(predictions[shown], splits, title)
    rows.append(most_frequent_class(splits, list(rows[0].metrics)))
    return make_report("knn", resolved, splits.facts(), backbones, rows, notes=notes, images=images)


def _predict(train: Tensor, test: Tensor, splits: Splits, protocol: KnnProtocol, run: RunSettings) -> dict[int, Tensor]:
    """Predicts classes `(Q,)` for each `k` from features `(N, d)` and `(Q, d)`, or sets `(N, r, d)` and `(Q, r, d)`."""
    device = run.processes.device
    bank, queries = train.to(device), test.to(device)
    if protocol.center:
        center = bank.flatten(0, -2).mean(dim=0)
        bank, queries = bank - center, queries - center
    labels = torch.tensor(splits.train.labels, device=device)
    chunks = similarities(queries, bank)
    if bank.ndim == 2:
        chunks = run.progress(chunks, "voting", math.ceil(len(queries) / QUERIES_AT_A_TIME))
    else:
        sets = run.progress(queries.split(SETS_AT_A_TIME), f"matching sets, {SET}")
        chunks = (set_similarity(each, bank, protocol.set_epsilon, protocol.set_num_iters) for each in sets)
    counts = protocol.num_neighbours
    votes = [vote(each, labels, counts, len(splits.train.classes), protocol.temperature).cpu() for each in chunks]
    return dict(zip(counts, torch.cat(votes, dim=1), strict=True))


def _row(name: str, pooling: str, predictions: dict[int, Tensor], splits: Splits) -> Measurement:
    labels = torch.tensor(splits.test.labels)
    metrics: dict[str, float | None] = {f"k={k}, %": accuracy(each, labels) for k, each in predictions.items()}
    by_class = {f"k={k}": class_accuracy(each, splits) for k, each in predictions.items()}
    return Measurement(name, pooling, metrics, {"class_accuracy": by_class})


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
    if not 1 <= num_neighbours <= len(bank):
        raise ValueError(
            f"num_neighbours must be between 1 and {len(bank)}, the size of the bank, got {num_neighbours}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
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
