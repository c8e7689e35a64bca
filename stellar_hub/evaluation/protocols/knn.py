"""Classification by nearest neighbours: the protocol, and following it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stellar_hub.evaluation.computing import RunSettings
from stellar_hub.evaluation.nearest_neighbours import nearest_neighbours, vote
from stellar_hub.evaluation.protocols.pooled import SET, check_poolings, chosen_poolings, most_frequent, pooled_sets
from stellar_hub.evaluation.report.report import Measurement, Report, make_report
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.measures import count_confusion, set_similarity
from stellar_hub.visualization import draw_confusion

USUAL_NEIGHBOURS = (10, 20, 100, 200)


@dataclass(frozen=True)
class KnnProtocol:
    """Weighted nearest neighbours, as Wu et al. 2018 (arXiv 1805.01978) and DINO (arXiv 2104.14294) report them.

    Attributes:
        num_neighbours: The values of `k`; empty takes those of 10, 20, 100, 200 that train has images for.
        temperature: A neighbour's vote weighs `exp(similarity / temperature)`.
        poolings: Features, see `POOLINGS`; empty takes all of a model's that are one vector. A model that has none of
            those named is measured by its usual one.
        center: Whether the mean of train's features is taken off all.
        similarity: Of vectors; sets of tokens are compared by `set_similarity`.
        set_epsilon: Weight of the entropy in the matching of sets.
        set_num_iters: Sinkhorn iterations of the matching of sets.

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
        """The protocol with the values of `k` that fit a train set of this size.

        Raises:
            ValueError: if a `k` that was asked for is larger, or none of the usual ones fits.
        """
        too_large = [k for k in self.num_neighbours if k > num_train]
        if too_large:
            raise ValueError(
                f"k = {too_large[0]} is larger than train, which has {num_train} images: pass --k {num_train} or less"
            )
        fitting = tuple(sorted(set(self.num_neighbours))) or tuple(k for k in USUAL_NEIGHBOURS if k <= num_train)
        if not fitting:
            raise ValueError(
                f"train has {num_train} images, fewer than every usual k ({', '.join(map(str, USUAL_NEIGHBOURS))}): "
                f"pass --k {num_train} or less"
            )
        return replace(self, num_neighbours=fitting)


def evaluate_knn(backbones: Sequence[Backbone], splits: Splits, protocol: KnnProtocol, run: RunSettings) -> Report:
    """Measure models by their nearest neighbours.

    Args:
        backbones: The models, the one of interest first.
        splits: Train and test.
        protocol: How.
        run: How it is computed.

    Returns:
        One row for each model and pooling, accuracies in percent by `k`.

    Raises:
        ValueError: if `k` does not fit the data, an image cannot be read, or a feature is not finite.
    """
    resolved = protocol.resolved(len(splits.train))
    notes = splits.notes()
    left_out = [k for k in USUAL_NEIGHBOURS if not protocol.num_neighbours and k not in resolved.num_neighbours]
    if left_out:
        notes.append(f"k = {', '.join(map(str, left_out))} left out: train has {len(splits.train)} images")
    rows: list[Measurement] = []
    images: dict[str, Any] = {}
    for backbone in backbones:
        poolings = chosen_poolings(backbone, resolved.poolings, sets=True)
        train, test = pooled_sets(backbone, splits, poolings, run)
        for pooling in poolings:
            predictions = knn_predictions(train.features[pooling], test.features[pooling], splits, resolved, run)
            rows.append(measure(backbone.name, pooling, predictions, splits))
            if not images:
                shown = resolved.num_neighbours[0]
                title = f"{backbone.name}, {pooling}, k = {shown}"
                images["knn-confusion"] = confusion_figure(predictions[shown], splits, title)
    rows.append(most_frequent(splits, list(rows[0].metrics)))
    return make_report("knn", resolved, splits.facts(), backbones, rows, notes=notes, images=images)


def knn_predictions(
    train: Tensor, test: Tensor, splits: Splits, protocol: KnnProtocol, run: RunSettings
) -> dict[int, Tensor]:
    """Predicted classes `(Q,)` for each `k`; features are `(N, d)` and `(Q, d)`, sets `(N, r, d)` and `(Q, r, d)`."""
    device = run.processes.device
    bank, queries = train.to(device), test.to(device)
    if protocol.center:
        center = bank.flatten(0, -2).mean(dim=0)
        bank, queries = bank - center, queries - center
    most = max(protocol.num_neighbours)
    if bank.ndim == 3:
        chunks = run.progress(queries.split(16), f"matching sets, {SET}")
        nearest, index = most_similar_sets(chunks, bank, most, protocol)
    else:
        nearest, index = nearest_neighbours(queries, bank, most)
    labels = torch.tensor(splits.train.labels, device=device)[index]  # (Q, most)
    return {
        k: vote(nearest[:, :k], labels[:, :k], len(splits.train.classes), protocol.temperature).cpu()
        for k in protocol.num_neighbours
    }


def most_similar_sets(chunks: Any, bank: Tensor, count: int, protocol: KnnProtocol) -> tuple[Tensor, Tensor]:
    """Similarities and indices of the sets nearest to each query, `(Q, count)` both."""
    found = [
        set_similarity(chunk, bank, protocol.set_epsilon, protocol.set_num_iters).topk(count, dim=-1)
        for chunk in chunks
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def measure(name: str, pooling: str, predictions: dict[int, Tensor], splits: Splits) -> Measurement:
    """Accuracies in percent, and those of each class."""
    labels = torch.tensor(splits.test.labels)
    metrics: dict[str, float | None] = {
        f"k={k}, %": 100 * (each == labels).double().mean().item() for k, each in predictions.items()
    }
    by_class = {f"k={k}": class_accuracy(each, labels, splits.test.classes) for k, each in predictions.items()}
    return Measurement(name, pooling, metrics, {"class_accuracy": by_class})


def class_accuracy(predictions: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy in percent for each class that test has images of."""
    counts = count_confusion(predictions, labels, len(classes))
    right, total = counts.diagonal().tolist(), counts.sum(dim=1).tolist()
    return {name: 100 * r / t for name, r, t in zip(classes, right, total, strict=True) if t}


def confusion_figure(predictions: Tensor, splits: Splits, title: str) -> Any:
    """The confusion of test's classes."""
    counts = count_confusion(predictions, torch.tensor(splits.test.labels), len(splits.test.classes))
    return draw_confusion(counts, splits.test.classes, title)
