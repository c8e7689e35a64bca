"""Sets of features."""

import pytest
import torch

from stellar_hub.evaluation.features.feature_set import FeatureSet

NAMES = ["a.png", "b.png", "c.png"]


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
