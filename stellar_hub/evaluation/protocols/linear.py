"""Linear classification of frozen features: the protocol, and following it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stellar_hub.evaluation.computing import RunSettings
from stellar_hub.evaluation.linear_classifiers import (
    check_logistic,
    fit_logistic,
    predict,
    predict_logistic,
    train_heads,
)
from stellar_hub.evaluation.protocols.knn import class_accuracy, confusion_figure
from stellar_hub.evaluation.protocols.pooled import SET, check_poolings, chosen_poolings, most_frequent, pooled_sets
from stellar_hub.evaluation.report.report import Measurement, Report, make_report
from stellar_hub.evaluation.splits import Splits, hold_out
from stellar_hub.features.backbones.backbone import Backbone

ADAMW, LOGISTIC = "linear, %", "logistic, %"
Fit = Callable[[Tensor, Tensor, tuple[Tensor, Tensor], Tensor], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class LinearProtocol:
    """A linear layer on frozen features, chosen on a held-out part of train and then fitted on all of it.

    Attributes:
        learning_rates: AdamW's, tried in one pass over the features.
        num_epochs: Passes over the features.
        batch_size: Samples of a step.
        weight_decay: Of the linear weight.
        held_out: Share of each class of train that choices are made on.
        logistic: Whether to fit a logistic regression too (L-BFGS, standardized features, L2).
        max_images_for_logistic: Images in train beyond which that is left out.
        inverse_penalties: scikit-learn's `C` of the logistic regression, tried likewise.
        poolings: Features, see `POOLINGS`; empty takes all of a model's that are one vector.
        seed: Of the part held out, of initial weights and of batches.
        head: What is trained.
        schedule: Of the learning rate.

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
            values = getattr(self, name)
            if not values or not all(value > 0 for value in values):
                raise ValueError(f"{name} must be some numbers above 0, got {values}")
        if self.num_epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"num_epochs and batch_size must be at least 1, got {self.num_epochs} and {self.batch_size}"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be within (0, 1), got {self.held_out}")
        if SET in self.poolings:
            raise ValueError(f"a linear layer takes one vector: leave out the pooling {SET}")
        check_poolings(self.poolings)


def evaluate_linear(
    backbones: Sequence[Backbone], splits: Splits, protocol: LinearProtocol, run: RunSettings
) -> Report:
    """Measure models by linear classification of their features.

    Args:
        backbones: The models, the one of interest first.
        splits: Train and test.
        protocol: How.
        run: How it is computed.

    Returns:
        One row for each model and pooling, accuracies in percent.

    Raises:
        ImportError: if scikit-learn is asked for and not installed.
        ValueError: if no class of train has two images, an image cannot be read, or a feature is not finite.
    """
    small = protocol.logistic and len(splits.train) <= protocol.max_images_for_logistic
    backends = {"scikit-learn": check_logistic()} if small else {}
    labels = torch.tensor(splits.train.labels)
    parts = hold_out(labels, protocol.held_out, protocol.seed)
    notes = splits.notes()
    if protocol.logistic and not small:
        notes.append(f"no logistic regression: train has more than {protocol.max_images_for_logistic} images")
    rows: list[Measurement] = []
    images: dict[str, Any] = {}
    for backbone in backbones:
        poolings = chosen_poolings(backbone, protocol.poolings)
        train, test = pooled_sets(backbone, splits, poolings, run)
        for pooling in poolings if run.processes.is_main else ():
            features = train.features[pooling], test.features[pooling]
            fits: dict[str, Fit] = {ADAMW: partial(by_adamw, protocol=protocol, splits=splits, run=run)}
            if small:
                fits[LOGISTIC] = partial(by_logistic, protocol=protocol)
            row, predictions = measure(backbone.name, pooling, *features, labels, parts, fits, splits)
            rows.append(row)
            if not images:
                title = f"{backbone.name}, {pooling}, linear"
                images["linear-confusion"] = confusion_figure(predictions, splits, title)
    rows.append(most_frequent(splits, [ADAMW, *([LOGISTIC] if small else [])]))
    return make_report(
        "linear", protocol, splits.facts(), backbones, rows, backends=backends, notes=notes, images=images
    )


def measure(
    name: str,
    pooling: str,
    train: Tensor,
    test: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, Tensor],
    fits: dict[str, Fit],
    splits: Splits,
) -> tuple[Measurement, Tensor]:
    """Fit in each way, and measure on test; predictions `(Q,)` of the first way besides."""
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {"num_fit": len(parts[0]), "num_held_out": len(parts[1])}
    truth = torch.tensor(splits.test.labels)
    first = None
    for metric, fit in fits.items():
        predictions, choice = fit(train, labels, parts, test)
        metrics[metric] = accuracy(predictions, truth)
        wrong = torch.where(predictions < 0, (truth + 1) % len(splits.train.classes), predictions)
        details[metric] = choice | {"class_accuracy": class_accuracy(wrong, truth, splits.test.classes)}
        first = wrong if first is None else first
    assert first is not None
    return Measurement(name, pooling, metrics, details), first


def by_adamw(
    train: Tensor,
    labels: Tensor,
    parts: tuple[Tensor, Tensor],
    test: Tensor,
    protocol: LinearProtocol,
    splits: Splits,
    run: RunSettings,
) -> tuple[Tensor, dict[str, Any]]:
    """Predictions on test by the learning rate that is best on the held-out part, fitted on all of train."""
    device = run.processes.device
    train, labels_there, test = train.to(device), labels.to(device), test.to(device)
    fitted, held = (part.to(device) for part in parts)

    def heads(index: Tensor, rates: Sequence[float], what: str) -> Any:
        with run.progress(range(protocol.num_epochs), f"linear, {what}", unit="epoch") as bar:
            return train_heads(
                train[index],
                labels_there[index],
                len(splits.train.classes),
                rates,
                protocol.num_epochs,
                protocol.batch_size,
                protocol.weight_decay,
                protocol.seed,
                bar.update,
            )

    tried = heads(fitted, protocol.learning_rates, "choosing the learning rate")
    scores = [accuracy(predict(head, train[held]), labels_there[held]) for head in tried]
    rate = protocol.learning_rates[scores.index(max(scores))]
    everything = torch.arange(len(train), device=device)
    (head,) = heads(everything, (rate,), "fitting")
    by_rate = {str(each): score for each, score in zip(protocol.learning_rates, scores, strict=True)}
    return predict(head, test).cpu(), {"learning_rate": rate, "held_out_accuracy": by_rate}


def by_logistic(
    train: Tensor, labels: Tensor, parts: tuple[Tensor, Tensor], test: Tensor, protocol: LinearProtocol
) -> tuple[Tensor, dict[str, Any]]:
    """Predictions on test by the penalty that is best on the held-out part, fitted on all of train."""
    fitted, held = parts
    scores = []
    for inverse in protocol.inverse_penalties:
        model = fit_logistic(train[fitted], labels[fitted], inverse)
        scores.append(accuracy(predict_logistic(model, train[held]), labels[held]))
    inverse = protocol.inverse_penalties[scores.index(max(scores))]
    model = fit_logistic(train, labels, inverse)
    by_penalty = {str(each): score for each, score in zip(protocol.inverse_penalties, scores, strict=True)}
    return predict_logistic(model, test), {"C": inverse, "held_out_accuracy": by_penalty}


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of the predictions `(N,)` that are right, in percent."""
    return 100 * (predictions == labels).double().mean().item()
