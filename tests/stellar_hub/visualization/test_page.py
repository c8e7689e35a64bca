"""The page about one image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.visualization import draw_page


@pytest.fixture
def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("fit", ["aspect", "pad"])
def test_draw_page__shows_the_numbers_of_the_model(model: StellarModel, photo: Image.Image, fit: str) -> None:
    processor = StellarImageProcessor.from_config(model.config, fit=fit)
    page, facts = draw_page(model, processor, photo)
    pixel_values = processor(photo, return_tensors="pt")["pixel_values"]
    grid_size = model.grid_size(*pixel_values.shape[-2:])
    with torch.inference_mode():
        encoding = model.encode(pixel_values)
        decoded = model.decode(*encoding, grid_size=grid_size)
    assert page.mode == "RGB"
    assert facts.psnr == pytest.approx(psnr(decoded, pixel_values), abs=1e-4)
    torch.testing.assert_close(facts.shares, encoding.localization[0].mean(dim=0), rtol=1e-5, atol=1e-6)
    assert float(facts.shares.sum()) == pytest.approx(1, abs=1e-5)


def test_draw_page__without_a_decoder_has_no_psnr(build_model: Callable[..., StellarModel], photo: Image.Image) -> None:
    model = build_model(use_decoder=False)
    _, facts = draw_page(model, StellarImageProcessor.from_config(model.config), photo)
    assert facts.psnr is None


def test_draw_page__grows_with_the_number_of_tokens(
    build_model: Callable[..., StellarModel], photo: Image.Image
) -> None:
    heights = []
    for num_tokens in (8, 9):
        model = build_model(num_sparse_tokens=num_tokens, reconstruction_head="pixel")
        heights.append(draw_page(model, StellarImageProcessor.from_config(model.config), photo)[0].height)
    assert heights[1] > heights[0]
