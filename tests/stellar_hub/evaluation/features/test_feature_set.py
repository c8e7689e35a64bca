"""Sets of features."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.evaluation.features.feature_set import FeatureSet, from_store

NAMES = ["a.png", "b.png", "c.png"]


class Store:
    """Features in a list, in another order than the pictures'."""

    def __init__(self, names: list[str]):
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def feature_names(self) -> list[str]:
        return ["cls", "S-mean"]

    def read(self, name: str, index: int) -> Tensor:
        return torch.tensor([float(ord(self.names[index][0])), float(len(name))])

    def picture_name(self, index: int) -> str:
        return self.names[index]


def test_set__holds_what_fits() -> None:
    assert len(FeatureSet({"cls": torch.ones(3, 2)}, NAMES, torch.zeros(3), ("x",))) == 3
    with pytest.raises(ValueError, match="lengths must be equal"):
        FeatureSet({"cls": torch.ones(2, 2)}, NAMES)
    with pytest.raises(ValueError, match="'labels': 2"):
        FeatureSet({"cls": torch.ones(3, 2)}, NAMES, torch.zeros(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite__name_their_pictures(bad: float) -> None:
    features = torch.ones(3, 2, 2)
    features[1, 0, 1] = bad
    with pytest.raises(ValueError, match=r"the feature 'cls' is not finite for 1 of 3 pictures \(b\.png\): look at"):
        FeatureSet({"cls": features}, NAMES)


def test_store__is_read_in_the_order_of_the_pictures() -> None:
    labelled = LabelledPictures("mine", [Path(name) for name in NAMES], (0, 1, 0), ("x", "y"))
    found = from_store(Store(["c.png", "a.png", "d.png", "b.png"]), labelled, ["cls"])
    assert found.features["cls"][:, 0].tolist() == [ord("a"), ord("b"), ord("c")]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="the store has no Z; it has cls, S-mean"):
        from_store(Store(NAMES), labelled, ["Z"])
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 pictures of mine, the first is c\.png"):
        from_store(Store(NAMES[:2]), labelled, ["cls"])
