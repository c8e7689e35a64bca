"""The page about one image."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.visualization import Canvas, draw_page


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


def written(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object]) -> list[tuple[int, int, int, str]]:
    """Returns left, top, right and text of each line that is written on a page."""
    lines = []
    write = Canvas.text

    def record(canvas: Canvas, left: int, top: int, text: str, size: int, *color: tuple[int, int, int]) -> None:
        lines.append((left, top, left + canvas.text_width(text, size), text))
        write(canvas, left, top, text, size, *color)

    monkeypatch.setattr(Canvas, "text", record)
    draw()
    return lines


@pytest.mark.parametrize(("width", "height"), [(40, 160), (160, 40), (20, 240), (5, 4)])
@pytest.mark.parametrize("num_tokens", [1, 16])
def test_draw_page__writes_no_text_over_text(
    build_model: Callable[..., StellarModel],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    height: int,
    num_tokens: int,
) -> None:
    model = build_model(num_sparse_tokens=num_tokens, reconstruction_head="pixel")
    processor = StellarImageProcessor.from_config(model.config, fit="aspect")
    photo = Image.effect_noise((width, height), 90).convert("RGB")
    pages = []
    lines = written(monkeypatch, lambda: pages.append(draw_page(model, processor, photo, "title " * 60)[0]))
    assert len(lines) == 5 + 2 * num_tokens
    assert max(right for _, _, right, _ in lines) <= pages[0].width
    for top in {line[1] for line in lines}:
        row = sorted(line for line in lines if line[1] == top)
        assert all(before[2] < after[0] for before, after in pairwise(row))


def test_draw_page__marks_tokens_that_are_not_used(
    build_model: Callable[..., StellarModel], photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(num_sparse_tokens=4, reconstruction_head="pixel")
    encode = model.encode

    def without_token_2(pixel_values: torch.Tensor) -> StellarEncoding:
        encoding = encode(pixel_values)
        encoding.localization[..., 2] = 0
        return encoding

    monkeypatch.setattr(model, "encode", without_token_2)
    lines = written(monkeypatch, lambda: draw_page(model, StellarImageProcessor.from_config(model.config), photo))
    assert [text for *_, text in lines][-2:] == ["token 2", "unused"]
    assert [text for *_, text in lines].count("unused") == 1
