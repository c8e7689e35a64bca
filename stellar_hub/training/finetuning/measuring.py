"""Measuring a classifier on labelled images, over all processes of a run."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.measures import count_confusion
from stellar_hub.training.finetuning.batches import UNREADABLE

TOP = 5


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a classifier for labelled images, without those that could not be read.

    Attributes:
        classes: Names of the classes.
        labels: True class of each image, `(N,)` int64.
        predictions: Most likely class of each image, `(N,)` int64.
        in_top: Whether the true class is among the five most likely ones, `(N,)` bool.
        loss: Mean cross-entropy.
        skipped: Images that could not be read, each as "path: reason".
    """

    classes: tuple[str, ...]
    labels: Tensor
    predictions: Tensor
    in_top: Tensor
    loss: float
    skipped: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the images whose most likely class is right, in [0, 1]."""
        return (self.predictions == self.labels).double().mean().item()

    @property
    def top_accuracy(self) -> float:
        """Share of the images whose class is among the five most likely ones, in [0, 1]."""
        return self.in_top.double().mean().item()

    def confusion(self) -> Tensor:
        """Returns the number of images by true and by predicted class, `(C, C)`."""
        return count_confusion(self.predictions, self.labels, len(self.classes))


@torch.no_grad()
def measure(model: nn.Module, loader: Any, labelled: LabelledImages, accelerator: Accelerator) -> Answers:
    """Returns the answers of a classifier. All processes call it, each with its part of the images.

    The model is in evaluation mode meanwhile.

    Args:
        model: The classifier, on the accelerator's device.
        loader: This process's batches, from `measuring_loader`.
        labelled: All images with their labels.
        accelerator: The accelerator.

    Raises:
        ValueError: if none of the images can be read; in every process.
    """
    was_training = model.training
    model.eval()
    found: list[tuple[int, int, bool, float]] = []
    skipped: list[str] = []
    for batch in loader:
        skipped += batch["skipped"]
        readable = batch["labels"] != UNREADABLE
        logits = model(batch["pixel_values"].to(accelerator.device)).logits.float().cpu()
        found += _rows(logits[readable], batch["labels"][readable], batch["rows"][readable])
    model.train(was_training)
    rows = sorted(gather_object(found))
    skipped = sorted(gather_object(skipped))
    if not rows:
        raise ValueError(f"none of the {len(labelled)} images of {labelled.name} can be read; the first: {skipped[0]}")
    numbers, predictions, in_top, losses = zip(*rows, strict=True)
    return Answers(
        classes=labelled.classes,
        labels=torch.tensor(labelled.labels)[torch.tensor(numbers)],
        predictions=torch.tensor(predictions),
        in_top=torch.tensor(in_top),
        loss=sum(losses) / len(losses),
        skipped=tuple(skipped),
    )


def _rows(logits: Tensor, labels: Tensor, rows: Tensor) -> list[tuple[int, int, bool, float]]:
    """Returns for each image its number, the most likely class, whether the true one is in the first five, the loss."""
    top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    in_top = (top == labels[:, None]).any(dim=1)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    return list(zip(rows.tolist(), top[:, 0].tolist(), in_top.tolist(), losses.tolist(), strict=True))
