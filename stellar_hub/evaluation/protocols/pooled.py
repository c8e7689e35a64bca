"""Pooled features of train and test images, which classification begins with."""

from collections.abc import Sequence

import torch

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.computing import RunSettings, extract_features
from stellar_hub.evaluation.feature_set import FeatureSet
from stellar_hub.evaluation.report.report import Measurement
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.names import POOLINGS, check_names

SET = "S"


def check_poolings(poolings: Sequence[str]) -> None:
    """Raise ValueError if a pooling is unknown."""
    check_names("pooling", poolings, POOLINGS)


def chosen_poolings(backbone: Backbone, poolings: Sequence[str], sets: bool = False) -> tuple[str, ...]:
    """The poolings to evaluate a backbone with.

    Args:
        backbone: The backbone.
        poolings: Those asked for; empty asks for all it has that give one vector.
        sets: Whether sets of vectors can be compared.
    """
    offered = tuple(name for name in backbone.poolings if sets or name != SET)
    vectors = tuple(name for name in offered if name != SET)
    return backbone.choose(poolings, offered) if poolings else vectors


def pooled_sets(
    backbone: Backbone, splits: Splits, poolings: Sequence[str], run: RunSettings
) -> tuple[FeatureSet, FeatureSet]:
    """A backbone's pooled features of train and of test."""
    backbone.to(run.processes.device)
    return (
        pooled_set(backbone, splits.train, splits.train_hash, poolings, run, "train"),
        pooled_set(backbone, splits.test, splits.test_hash, poolings, run, "test"),
    )


def pooled_set(
    backbone: Backbone, labelled: LabelledImages, data_hash: str, poolings: Sequence[str], run: RunSettings, what: str
) -> FeatureSet:
    """A backbone's features of labelled images: out of a store of it, else computed."""
    if run.stores:
        from stellar_hub.evaluation.from_store import stored_features  # stores need an extra

        stored = stored_features(run.stores, backbone, labelled, poolings)
        if stored is not None:
            return stored
    features = extract_features(backbone, labelled.images, poolings, run, data_hash, f"encoding {what}")
    names = [str(labelled.images[index]) for index in range(len(labelled))]
    return FeatureSet(features, names, torch.tensor(labelled.labels), labelled.classes)


def most_frequent(splits: Splits, metrics: Sequence[str]) -> Measurement:
    """The row of always answering with train's most frequent class."""
    counts = splits.train.counts()
    answer = counts.index(max(counts))
    share = 100 * sum(label == answer for label in splits.test.labels) / len(splits.test)
    return Measurement("most frequent class", "", dict.fromkeys(metrics, share))
