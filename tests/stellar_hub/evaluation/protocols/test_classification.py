"""What kNN and linear classification share."""

import pytest
import torch

from stellar_hub.evaluation.protocols.classification import (
    accuracy,
    check_poolings,
    choose_poolings,
    class_accuracy,
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


def test_accuracy__is_in_percent_of_all_images_and_of_each_class(splits: Splits) -> None:
    assert accuracy(torch.tensor([0, 1, -1, 2]), torch.tensor([0, 1, 2, 0])) == 50
    always_blue = torch.zeros(7, dtype=torch.long)
    assert class_accuracy(always_blue, splits) == {"blue": 100, "green": 0, "red": 0}
