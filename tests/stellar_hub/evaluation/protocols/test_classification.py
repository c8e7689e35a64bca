"""What kNN and linear classification share."""

import pytest
import torch

from stellar_hub.evaluation.protocols.classification import (
    accuracy,
    check_poolings,
    choose_poolings,
    class_accuracy,
    confusion_counts,
)
from stellar_hub.evaluation.splits import Splits
from stellar_hub.features.backbones.stellar import StellarBackbone


def test_old_names_of_poolings__are_refused_with_the_new_name() -> None:
    for old, new in {"S-mean": "pooled", "patches-mean": "patches_mean", "S-set": "S"}.items():
        with pytest.raises(ValueError, match=f"'{old}' .*'{new}'"):
            check_poolings(["cls", old])


def test_poolings__are_vectors_unless_a_set_is_named(tiny: StellarBackbone) -> None:
    assert choose_poolings(tiny, (), with_sets=True) == ("pooled", "cls", "patches_mean")
    assert choose_poolings(tiny, ("S", "cls"), with_sets=True) == ("S", "cls")
    assert choose_poolings(tiny, ("pixels",)) == ("pooled",)


def test_confusion__has_rows_of_true_and_columns_of_predicted_classes(splits: Splits) -> None:
    from sklearn.metrics import confusion_matrix

    labels, predictions = [0, 0, 1, 3, 3], torch.tensor([0, 1, 1, 0, 3])
    found = confusion_counts(predictions, labels, 4)
    assert found.tolist() == confusion_matrix(labels, predictions, labels=range(4)).tolist()
    assert accuracy(predictions, torch.tensor(labels)) == 60
    always_blue = torch.zeros(7, dtype=torch.long)
    assert class_accuracy(always_blue, splits) == {"blue": 100, "green": 0, "red": 0}
