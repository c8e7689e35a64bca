"""Linear classification of frozen features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.labelled import hold_out
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.linear_classifiers import (
    fit_logistic,
    predict,
    predict_logistic,
    scikit_learn_version,
    train_heads,
)
from stellar_hub.evaluation.protocols.checks import check_positive, check_seed
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

ADAMW, LOGISTIC = "linear, %", "logistic, %"
Fit = Callable[[Tensor, Tensor, tuple[Tensor, Tensor], Tensor], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class LinearProtocol:
    """The choices of linear classification.

    The learning rate and the penalty are chosen on a held-out part of train; then the classifier is fitted on all of
    train, and test is used once.

    Attributes:
        learning_rates: Learning rates of AdamW to choose from. All are tried in one pass over the features.
        num_epochs: Number of passes over the features.
        batch_size: Number of feature vectors per step.
        weight_decay: Weight decay of the linear weight.
        held_out: Share of each class of train to choose on, in (0, 1).
        logistic: Whether to fit a logistic regression too (L-BFGS, standardized features, L2 penalty).
        max_images_for_logistic: Largest number of training images for which logistic regression is fitted.
        inverse_penalties: Values of scikit-learn's `C` to choose from for logistic regression.
        poolings: Features to evaluate, names of `POOLINGS`. Empty means all features of a model that are one vector.
        seed: Seed of the held-out part, of initial weights and of the order of batches.
        head: Description of the layers that are trained, for the report.
        schedule: Description of the learning rate schedule, for the report.

    Raises:
        ValueError: if a value is out of range.
    """

    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
    num_epochs: int = 100
    batch_size: int = 256
    weight_decay: float = 0.01
    held_out: float = 0.1
    logistic: bool = True
    max_images_for_logistic: int = 20_000
    inverse_penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    poolings: tuple[str, ...] = ()
    seed: int = 0
    head: str = "LayerNorm + linear, cross-entropy, AdamW"
    schedule: str = "cosine to 0"

    def __post_init__(self) -> None:
        for name in ("learning_rates", "inverse_penalties"):
            check_positive(name, getattr(self, name))
        if self.num_epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"num_epochs and batch_size must be at least 1, got {self.num_epochs} and {self.batch_size}"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be within (0, 1), got {self.held_out}")
        check_seed(self.seed)
        check_poolings(self.poolings)
        if SET in self.poolings:
            raise ValueError(f"pooling {SET} is a set of vectors, and a linear layer takes one vector: leave it out")


def evaluate_linear(
    backbones: Sequence[Backbone], splits: Splits, protocol: LinearProtocol, run: RunSettings
) -> Report:
    """Evaluates models by linear classification of their pooled features.

    Args:
        backbones: Models to evaluate, the most important one first: its confusion matrix is drawn.
        splits: Labelled images, train and test.
        protocol: Choices that decide what is measured.
        run: Choices that decide how it is computed.

    Returns:
        A report with one row per model and pooling; the columns are accuracies in percent.

    Raises:
        ImportError: if logistic regression is wanted and scikit-learn is not installed.
        ValueError: if no class of train has two images, too few images can be read, or a feature is not finite.
    """
    report, _ = evaluate_readable(splits, backbones, run, lambda data: measure_linear(backbones, data, protocol, run))
    return report


def measure_linear(backbones: Sequence[Backbone], splits: Splits, protocol: LinearProtocol, run: RunSettings) -> Report:
    """Evaluates models as `evaluate_linear` does, but raises UnreadableImagesError for an unreadable image."""
    with_logistic = protocol.logistic and len(splits.train) <= protocol.max_images_for_logistic
    backends = {"scikit-learn": scikit_learn_version()} if with_logistic else {}
    labels = torch.tensor(splits.train.labels)
    parts = hold_out(labels, protocol.held_out, protocol.seed)
    notes = splits.notes()
    if protocol.logistic and not with_logistic:
        notes.append(f"no logistic regression: train has more than {protocol.max_images_for_logistic} images")
    rows: list[Measurement] = []
    images: dict[str, Image.Image] = {}
    for backbone in backbones:
        poolings = choose_poolings(backbone, protocol.poolings)
        train, test = pooled_features(backbone, splits, poolings, run)
        for pooling in poolings if run.processes.is_main else ():
            features = train.features[pooling], test.features[pooling]
            fits: dict[str, Fit] = {ADAMW: partial(_fit_by_adamw, protocol=protocol, splits=splits, run=run)}
            if with_logistic:
                fits[LOGISTIC] = partial(_fit_logistic, protocol=protocol, run=run)
            row, predictions = _row(backbone.name, pooling, *features, labels, parts, fits, splits)
            rows.append(row)
            if not images:
                title = f"{backbone.name}, {pooling}, linear"
                images["linear-confusion"] = confusion_figure(predictions, splits, title)
    rows.append(most_frequent_class(splits, [ADAMW, *([LOGISTIC] if with_logistic else [])]))
    return make_report(
        "linear", protocol, splits.facts(), backbones, rows, backends=backends, notes=notes, images=images
    )


def _row(
    name: str,
    pooling: str,
    train: Tensor,
    test: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, Tensor],
    fits: dict[str, Fit],
    splits: Splits,
) -> tuple[Measurement, Tensor]:
    """Fits in each way and measures on test; returns the row, and the first way's predictions `(Q,)`."""
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {"num_fit": len(parts[0]), "num_held_out": len(parts[1])}
    truth = torch.tensor(splits.test.labels)
    first = None
    for metric, fit in fits.items():
        predictions, choice = fit(train, labels, parts, test)
        metrics[metric] = accuracy(predictions, truth)
        # A classifier that diverged predicts -1; confusion counts need a class, so take a wrong one.
        classes = torch.where(predictions < 0, (truth + 1) % len(splits.train.classes), predictions)
        details[metric] = choice | {"class_accuracy": class_accuracy(classes, splits)}
        first = classes if first is None else first
    assert first is not None
    return Measurement(name, pooling, metrics, details), first


def _fit_by_adamw(
    train: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, Tensor],
    test: Tensor,
    protocol: LinearProtocol,
    splits: Splits,
    run: RunSettings,
) -> tuple[Tensor, dict[str, Any]]:
    """Chooses the learning rate on the held-out part, fits on all of train, and predicts test."""
    device = run.processes.device
    train, labels_there, test = train.to(device), labels.to(device), test.to(device)
    fitted, held = (part.to(device) for part in parts)

    def heads(index: Tensor, rates: Sequence[float], what: str) -> Any:
        with run.progress_of(protocol.num_epochs, f"linear, {what}", "epoch") as progress, progress.keep_showing():
            return train_heads(
                train[index],
                labels_there[index],
                len(splits.train.classes),
                rates,
                protocol.num_epochs,
                protocol.batch_size,
                protocol.weight_decay,
                protocol.seed,
                progress.update,
            )

    tried = heads(fitted, protocol.learning_rates, "choosing the learning rate")
    scores = [accuracy(predict(head, train[held]), labels_there[held]) for head in tried]
    rate = protocol.learning_rates[scores.index(max(scores))]
    everything = torch.arange(len(train), device=device)
    (head,) = heads(everything, (rate,), "fitting")
    by_rate = {str(each): score for each, score in zip(protocol.learning_rates, scores, strict=True)}
    return predict(head, test).cpu(), {"learning_rate": rate, "held_out_accuracy": by_rate}


def _fit_logistic(
    train: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, Tensor],
    test: Tensor,
    protocol: LinearProtocol,
    run: RunSettings,
) -> tuple[Tensor, dict[str, Any]]:
    """Chooses the penalty on the held-out part, fits on all of train, and predicts test."""
    fitted, held = parts
    scores = []
    num_fits = len(protocol.inverse_penalties) + 1
    with run.progress_of(num_fits, "logistic regression", "fit") as progress, progress.keep_showing():
        for inverse in protocol.inverse_penalties:
            model = fit_logistic(train[fitted], labels[fitted], inverse)
            scores.append(accuracy(predict_logistic(model, train[held]), labels[held]))
            progress.update()
        inverse = protocol.inverse_penalties[scores.index(max(scores))]
        model = fit_logistic(train, labels, inverse)
        progress.update()
    by_penalty = {str(each): score for each, score in zip(protocol.inverse_penalties, scores, strict=True)}
    return predict_logistic(model, test), {"C": inverse, "held_out_accuracy": by_penalty}
