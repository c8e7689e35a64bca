"""How well predicted classes of pixels agree with the true ones."""

import torch
from torch import Tensor

from stellar_hub.data.segmentation_folders import UNLABELLED


def count_pixels(predictions: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class (row) were taken for each (column).

    Args:
        predictions: Any shape, integers in [0, num_classes).
        masks: The same shape, classes or 255, which does not count.
        num_classes: Number of classes.

    Returns:
        `(num_classes, num_classes)` int64.
    """
    labelled = masks != UNLABELLED
    pairs = masks[labelled].long() * num_classes + predictions[labelled].long()
    return pairs.bincount(minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class over all pixels.

    Args:
        counts: From `count_pixels`, of a whole data set.

    Returns:
        `(num_classes,)` float64 in [0, 1]; NaN for a class that is neither true nor predicted anywhere.
    """
    shared = counts.diagonal().double()
    union = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return torch.where(union > 0, shared / union, torch.nan)


def mean_iou(counts: Tensor) -> float:
    """Mean of `class_iou` over the classes that occur, in [0, 1]."""
    return class_iou(counts).nanmean().item()


def pixel_accuracy(counts: Tensor) -> float:
    """Share of labelled pixels whose class is right, in [0, 1]."""
    return (counts.diagonal().sum().double() / counts.sum().clamp(min=1)).item()
