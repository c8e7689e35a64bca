"""What all backbones share, and raw pixels."""

import pytest
import torch

from stellar_hub.features.backbones import PixelBackbone, open_backbone

SMALL_TIMM = "test_vit"  # timm's own, for tests: 64 wide, 160 pixels


def test_pixels__are_the_image_averaged_and_its_patches() -> None:
    found = open_backbone("pixels")
    assert isinstance(found, PixelBackbone)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = found.features(images, ("pixels", "patches"))
    expected = images.unflatten(3, (16, 4)).unflatten(2, (16, 4)).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(features["pixels"], expected)
    assert features["patches"].shape == (2, 64, 192)
    corner = features["patches"][:, 9]  # the second patch of the second row
    assert torch.equal(corner.sort().values, images[:, :, 8:16, 8:16].flatten(1).sort().values)


@pytest.mark.parametrize("spec", ["stellar-tiny", "pixels", f"{SMALL_TIMM}:random"])
def test_shapes__are_those_of_the_features(spec: str) -> None:
    found = open_backbone(spec)
    images = torch.rand(1, 3, *found.facts.preprocessing["crop"])
    with torch.no_grad():
        features = found.features(images, found.feature_names)
    shapes = {name: tuple(feature.shape[1:]) for name, feature in features.items()}
    assert found.feature_shapes(found.feature_names) == shapes
