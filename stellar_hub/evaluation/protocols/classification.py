"""What kNN and linear classification share: pooled features of train and test, confusion counts and common rows."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.digests import name_of
from stellar_hub.evaluation.feature_set import FeatureSet
from stellar_hub.evaluation.report import Measurement
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.names import POOLINGS, check_names
from stellar_hub.measures import count_confusion
from stellar_hub.visualization import draw_confusion

SET = "S"  # the one pooling that gives a set of vectors per image


def check_poolings(poolings: Sequence[str]) -> None:
    """Raises ValueError if a pooling is unknown."""
    check_names("pooling", poolings, POOLINGS)


def choose_poolings(backbone: Backbone, poolings: Sequence[str], with_sets: bool = False) -> tuple[str, ...]:
    """Returns the poolings to evaluate a model with.

    Args:
        backbone: The model.
        poolings: Poolings that the user named; empty means all that give one vector. A model that has none of the
            named ones is evaluated with its first one.
        with_sets: Whether the protocol can compare sets of vectors.
    """
    vectors = tuple(name for name in backbone.poolings if name != SET)
    if not poolings:
        return vectors
    return backbone.choose(poolings, backbone.poolings if with_sets else vectors)


def pooled_features(
    backbone: Backbone, splits: Splits, poolings: Sequence[str], run: RunSettings
) -> tuple[FeatureSet, FeatureSet]:
    """Returns a model's pooled features of train and of test."""
    backbone.to(run.processes.device)
    return (
        _features_of_split(backbone, splits.train, splits.train_hash, poolings, run, "train"),
        _features_of_split(backbone, splits.test, splits.test_hash, poolings, run, "test"),
    )


def _features_of_split(
    backbone: Backbone, labelled: LabelledImages, data_hash: str, poolings: Sequence[str], run: RunSettings, split: str
) -> FeatureSet:
    """Reads a model's features from a store that has them, or computes them."""
    if run.stores:
        from stellar_hub.evaluation.from_store import stored_features  # stores need an extra

        stored = stored_features(run.stores, backbone, labelled, poolings)
        if stored is not None:
            return stored
    features = all_features(backbone, labelled.images, poolings, run, data_hash, f"encoding {split}")
    names = [name_of(labelled.images, index) for index in range(len(labelled))]
    return FeatureSet(features, names, torch.tensor(labelled.labels), labelled.classes)


def most_frequent_class(splits: Splits, metrics: Sequence[str]) -> Measurement:
    """Returns the row of a classifier that always answers with the most frequent class of train."""
    counts = splits.train.counts()
    answer = counts.index(max(counts))
    share = 100 * sum(label == answer for label in splits.test.labels) / len(splits.test)
    return Measurement("most frequent class", "", dict.fromkeys(metrics, share))


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Returns the share of predictions `(N,)` that equal the labels `(N,)`, in percent."""
    return 100 * (predictions == labels).double().mean().item()


def class_accuracy(predictions: Tensor, splits: Splits) -> dict[str, float]:
    """Returns the accuracy in percent of each class that test has images of."""
    counts = _count_confusion(predictions, splits)
    right, total = counts.diagonal().tolist(), counts.sum(dim=1).tolist()
    return {name: 100 * r / t for name, r, t in zip(splits.test.classes, right, total, strict=True) if t}


def confusion_figure(predictions: Tensor, splits: Splits, title: str) -> Image.Image:
    """Draws the confusion matrix of the test images."""
    return draw_confusion(_count_confusion(predictions, splits), splits.test.classes, title)


def _count_confusion(predictions: Tensor, splits: Splits) -> Tensor:
    return count_confusion(predictions, torch.tensor(splits.test.labels), len(splits.test.classes))
