"""Classification by weighted nearest neighbours: what frozen features tell without any training.

The protocol is that of Wu et al. 2018 (arXiv 1805.01978) and DINO (arXiv 2104.14294): cosine similarity, and each of
the `k` nearest training images votes for its class with weight `exp(similarity / temperature)`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
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
from stellar_hub.measures import set_similarity, similarities, vote
from stellar_hub.measures.neighbours import QUERIES_AT_A_TIME

USUAL_NEIGHBOURS = (10, 20, 100, 200)
SETS_AT_A_TIME = 16


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
