"""A batch of the workers becomes what the model takes: floats, colours changed view by view."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.data.crops import ViewSettings, plan_views, render_views
from stellar_hub.data.device_crops import as_boxes
from stellar_hub.data.photometric import (
    PhotometricSettings,
    apply_photometric,
    draw_photometric,
    identity_parameters,
)
from stellar_hub.training.device_batch import to_device

SETTINGS = PhotometricSettings(True, 0.4, 0.4, 0.2, 0.1, 1.0, 0.2, 0.5, (0.1, 2.0), 5)
LOCAL_ONLY = PhotometricSettings(False, 0.4, 0.4, 0.2, 0.1, 1.0, 0.2, 0.5, (0.1, 2.0), 5)
CPU = torch.device("cpu")


@pytest.fixture
def batch() -> dict[str, Any]:
    """Two pictures, three global views of 16 pixels and two local ones of 8."""
    generator = torch.Generator().manual_seed(0)
    parameters = [draw_photometric(5, SETTINGS, generator) for _ in range(2)]
    return {
        "global_views": torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "local_views": torch.randint(256, (2, 2, 3, 8, 8), dtype=torch.uint8, generator=generator),
        "photometric": torch.stack(parameters),
        "kept_patches": torch.tensor([[0, 3]] * 6),
        "paths": ["a.png", "b.png"],
        "skipped": ["c.png: empty"],
    }


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_inputs__are_those_of_the_model(batch: dict[str, Any]) -> None:
    inputs = to_device(batch, CPU, SETTINGS)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "pixel_values": (2, 3, 16, 16),
        "global_views": (2, 3, 3, 16, 16),
        "local_views": (2, 2, 3, 8, 8),
        "kept_patches": (6, 2),
    }
    images = [value for name, value in inputs.items() if name != "kept_patches"]
    assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
    torch.testing.assert_close(inputs["kept_patches"], batch["kept_patches"])


def test_clean_image__is_the_first_global_view_before_its_colours_change(batch: dict[str, Any]) -> None:
    inputs = to_device(batch, CPU, SETTINGS)
    close(inputs["pixel_values"], batch["global_views"][:, 0] / 255)
    assert (inputs["global_views"][:, 0] - inputs["pixel_values"]).abs().max() > 0.01


def test_each_view__has_its_own_parameters(batch: dict[str, Any]) -> None:
    inputs = to_device(batch, CPU, SETTINGS)
    for image in range(2):
        for view in range(5):
            name, index = ("global_views", view) if view < 3 else ("local_views", view - 3)
            before = batch[name][image, index][None] / 255
            expected = apply_photometric(before, batch["photometric"][image, view][None], 5)[0]
            close(inputs[name][image, index], expected)


def test_global_views__are_left_alone_where_the_recipe_says_so(batch: dict[str, Any]) -> None:
    inputs = to_device(batch, CPU, LOCAL_ONLY)
    close(inputs["global_views"], batch["global_views"] / 255)
    assert (inputs["local_views"] - batch["local_views"] / 255).abs().max() > 0.01


def test_local_views_and_masks__may_be_absent(batch: dict[str, Any]) -> None:
    del batch["local_views"], batch["kept_patches"]
    assert set(to_device(batch, CPU, SETTINGS)) == {"pixel_values", "global_views"}


def test_batch__stays_as_it_is(batch: dict[str, Any]) -> None:
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    to_device(batch, CPU, SETTINGS)
    for name, value in before.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)


def test_double_precision__is_kept_throughout(batch: dict[str, Any]) -> None:
    inputs = to_device(batch, CPU, SETTINGS, torch.float64)
    assert {value.dtype for name, value in inputs.items() if name != "kept_patches"} == {torch.float64}
    close(inputs["global_views"].float(), to_device(batch, CPU, SETTINGS)["global_views"])


def test_pictures__are_cut_into_the_views_the_workers_would_have_made() -> None:
    pictures = [torch.randint(60, 196, (3, *shape), dtype=torch.uint8) for shape in ((20, 30), (40, 24))]
    views = ViewSettings(16, 8, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5)
    planned = [plan_views(*picture.shape[1:], views, torch.Generator().manual_seed(1)) for picture in pictures]
    batch: dict[str, Any] = {
        "pictures": pictures,
        "global_boxes": torch.stack([as_boxes(plan[0]) for plan in planned]),
        "local_boxes": torch.stack([as_boxes(plan[1]) for plan in planned]),
        "photometric": torch.stack([identity_parameters(5)] * 2),
    }
    inputs = to_device(batch, CPU, SETTINGS, view_sizes=(16, 8))
    for name, which in (("global_views", 0), ("local_views", 1)):
        expected = torch.stack(
            [render_views(picture, plan[which]) for picture, plan in zip(pictures, planned, strict=True)]
        )
        torch.testing.assert_close(inputs[name], expected / 255, rtol=0, atol=2.1 / 255)
