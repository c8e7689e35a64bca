"""Sets of features."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.evaluation.feature_set import FeatureSet, fit_mask
from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_geometry import fit_geometry

NAMES = ["a.png", "b.png", "c.png"]


def test_set__holds_what_fits() -> None:
    assert len(FeatureSet({"cls": torch.ones(3, 2)}, NAMES, torch.zeros(3), ("x",))) == 3
    with pytest.raises(ValueError, match="lengths must be equal"):
        FeatureSet({"cls": torch.ones(2, 2)}, NAMES)
    with pytest.raises(ValueError, match="'labels': 2"):
        FeatureSet({"cls": torch.ones(3, 2)}, NAMES, torch.zeros(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite__name_their_images(bad: float) -> None:
    features = torch.ones(3, 2, 2)
    features[1, 0, 1] = bad
    with pytest.raises(ValueError, match=r"the feature 'cls' is not finite for 1 of 3 images \(b\.png\): look at"):
        FeatureSet({"cls": features}, NAMES)


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (32, 32), (37, 91)])
def test_mask__goes_through_the_crop_of_its_image(size: tuple[int, int], tmp_path: Path) -> None:
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[size[0] // 3 :, : size[1] // 2] = 1
    Image.fromarray((mask * 255).numpy()).convert("RGB").save(tmp_path / "a.png")
    processor = StellarImageProcessor(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}, patch_size=8)
    image = processor(tmp_path / "a.png")["pixel_values"][0, 0]
    fitted = fit_mask(mask, fit_geometry(size, "crop", 37, (32, 32), 8))
    assert fitted.shape == (32, 32)
    assert ((image > 0.5) == fitted.bool()).double().mean() > 0.97  # but for pixels at the edge


def test_bars__are_unlabelled() -> None:
    fitted = fit_mask(torch.ones(10, 20, dtype=torch.uint8), fit_geometry((10, 20), "pad", None, (16, 16), 8))
    assert (fitted[:4] == UNLABELLED).all()
    assert (fitted[4:12] == 1).all()
    assert (fitted[12:] == UNLABELLED).all()
