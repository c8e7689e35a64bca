import pytest
import torch

from stellar_hub.data.views.device_fitting import DeviceFitting
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_fitting import apply_geometry

SIZES = [(75, 100), (100, 75), (40, 41), (20, 30), (300, 90), (32, 32)]


def noise(height: int, width: int, black_and_white: bool) -> torch.Tensor:
    images = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0))
    return ((images > 127) * 255 if black_and_white else images).to(torch.uint8)


@pytest.mark.parametrize("black_and_white", [False, True])
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_fitted_images__are_the_processors_but_for_a_level(
    size: tuple[int, int], fit: str, black_and_white: bool
) -> None:
    processor = StellarImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 16}, fit=fit)
    images = noise(*size, black_and_white)
    plan = processor.geometry_of_shape(images.shape)
    expected = torch.stack([apply_geometry(image, plan, processor.fill_value) for image in images])
    found = DeviceFitting(processor.fill_value)(images, plan)
    difference = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.05


def test_image_of_the_right_size__stays_as_it_is() -> None:
    processor = StellarImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    images = noise(32, 32, False)
    assert torch.equal(DeviceFitting(0.5)(images, processor.geometry_of_shape(images.shape)), images)


def test_autocast_around_it__changes_nothing() -> None:
    processor = StellarImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 16})
    images = noise(75, 100, False)
    plan = processor.geometry_of_shape(images.shape)
    expected = DeviceFitting(0.5)(images, plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(DeviceFitting(0.5)(images, plan), expected)
