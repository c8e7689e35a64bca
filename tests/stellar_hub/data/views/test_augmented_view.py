"""Augmented views for evaluation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub import StellarImageProcessor
from stellar_hub.data.scenes import draw_scene
from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.views import AugmentedView


@pytest.fixture(scope="module")
def processor() -> StellarImageProcessor:
    return StellarImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})


def encoded(values: np.ndarray, kind: str) -> EncodedImage:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=kind)
    return EncodedImage(kind, buffer.getvalue())


def test_view__depends_on_number_seed_and_index_alone(processor: StellarImageProcessor) -> None:
    image = encoded(draw_scene(1, 40).image, "PNG")
    draws = [(1, 0, 5), (2, 0, 5), (1, 3, 5), (1, 0, 6)]
    views = [AugmentedView(number, seed).prepare(processor, image, index) for number, seed, index in draws]
    assert all(view.shape == (3, 16, 16) and 0 <= view.min() <= view.max() <= 1 for view in views)
    assert len({view.numpy().tobytes() for view in views}) == len(draws)
    again = AugmentedView(1, 0).prepare(processor, image, 5)
    torch.testing.assert_close(again, views[0], rtol=0, atol=0)


def test_view__without_changes_is_the_image(processor: StellarImageProcessor) -> None:
    grey = encoded(np.full((16, 16), 0.5, dtype=np.float32), "TIFF")
    view = AugmentedView(1, area=(1.0, 1.0), flip_probability=0.0, jitter=0.0).prepare(processor, grey, 0)
    torch.testing.assert_close(view, torch.full((3, 16, 16), 128 / 255), rtol=0, atol=0)


def test_view__of_an_oblong_network_is_refused() -> None:
    processor = StellarImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 16, "width": 24}, patch_size=8)
    with pytest.raises(ValueError, match="16 x 24"):
        AugmentedView(1).prepare(processor, encoded(draw_scene(1, 40).image, "PNG"), 0)


def test_facts__are_the_settings() -> None:
    assert AugmentedView(2, seed=4).facts() == {
        "number": 2,
        "seed": 4,
        "area": (0.5, 1.0),
        "flip_probability": 0.5,
        "jitter": 0.2,
    }
