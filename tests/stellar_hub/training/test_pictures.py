"""The picture of a run's progress."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image
from stellar_hub.modeling import StellarModel
from torch import Tensor

from stellar_hub.training.pictures import (
    CAPTION,
    GAP,
    HEAD,
    MARGIN,
    SIDE,
    draw_progress_picture,
    evaluating,
    sharpest_tokens,
)


def corner_of(picture: Image.Image, row: int, column: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """The panel at this place of a picture without a title."""
    left, top = MARGIN + column * (size[0] + GAP), MARGIN + HEAD + row * (size[1] + CAPTION + GAP)
    return picture.crop((left, top, left + size[0], top + size[1]))


def test_draw_progress_picture__shows_input_and_reconstruction(pixel_model: StellarModel) -> None:
    images = torch.full((2, 3, 32, 32), 0.2)
    images[1] = 0.8
    with torch.inference_mode():
        decoded = pixel_model.decode(*pixel_model.encode(images))
    picture = draw_progress_picture(pixel_model, images)
    assert picture.mode == "RGB"
    for row, value in enumerate((51, 204)):
        assert corner_of(picture, row, 0).getpixel((SIDE // 2, SIDE // 2)) == (value, value, value)
        shown = torch.tensor(list(corner_of(picture, row, 1).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))))  # type: ignore[arg-type]
        torch.testing.assert_close(shown / 255, decoded[row].mean(dim=(1, 2)), rtol=0, atol=0.02)


def test_draw_progress_picture__works_with_either_head(model: StellarModel, images: Tensor) -> None:
    picture = draw_progress_picture(model, images)
    assert picture.width == 2 * MARGIN + 7 * (SIDE + GAP) - GAP


def test_draw_progress_picture__without_a_decoder_leaves_the_reconstruction_out(
    build_model: Callable[..., StellarModel], images: Tensor
) -> None:
    picture = draw_progress_picture(build_model(use_decoder=False), images)
    assert picture.width == 2 * MARGIN + 6 * (SIDE + GAP) - GAP


def test_draw_progress_picture__draws_at_most_eight_rows(pixel_model: StellarModel) -> None:
    images = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert draw_progress_picture(pixel_model, images).height == draw_progress_picture(pixel_model, images[:8]).height


def test_draw_progress_picture__makes_room_for_a_title(pixel_model: StellarModel, images: Tensor) -> None:
    plain = draw_progress_picture(pixel_model, images)
    assert draw_progress_picture(pixel_model, images, title="step 200").height > plain.height


@pytest.mark.parametrize("num_tokens", [1, 2, 9])
def test_draw_progress_picture__takes_any_number_of_tokens_and_sides(
    build_model: Callable[..., StellarModel], num_tokens: int
) -> None:
    model = build_model(num_sparse_tokens=num_tokens, reconstruction_head="pixel")
    picture = draw_progress_picture(model, torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0)))
    assert picture.width == 2 * MARGIN + (3 + min(4, num_tokens)) * (SIDE + GAP) - GAP


def test_draw_progress_picture__takes_bytes_and_other_dtypes(pixel_model: StellarModel, images: Tensor) -> None:
    images = (images * 255).to(torch.uint8)
    expected = draw_progress_picture(pixel_model, images)
    assert draw_progress_picture(pixel_model, images / 255).tobytes() == expected.tobytes()
    assert draw_progress_picture(pixel_model.bfloat16(), images).size == expected.size


def test_draw_progress_picture__survives_weights_that_are_nan(pixel_model: StellarModel, images: Tensor) -> None:
    with torch.no_grad():
        for parameter in pixel_model.parameters():
            parameter.fill_(torch.nan)
    assert draw_progress_picture(pixel_model, images).mode == "RGB"


def test_draw_progress_picture__changes_nothing(vq_model: StellarModel, images: Tensor) -> None:
    assert vq_model.tokenizer is not None
    vq_model.train()
    vq_model.tokenizer.eval()
    modes = [module.training for module in vq_model.modules()]
    before, state = images.clone(), torch.get_rng_state()
    draw_progress_picture(vq_model, images)
    assert [module.training for module in vq_model.modules()] == modes
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    vq_model.encode(images).semantics.sum().backward()  # no tensor of inference mode stayed behind


def test_evaluating__restores_the_modes_after_an_error(pixel_model: StellarModel) -> None:
    pixel_model.train()

    def fail() -> None:
        with evaluating(pixel_model):
            assert not pixel_model.training
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert all(module.training for module in pixel_model.modules())


def test_draw_progress_picture__refuses_sides_that_do_not_fit(pixel_model: StellarModel) -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch size"):
        draw_progress_picture(pixel_model, torch.zeros(1, 3, 33, 32))


def test_sharpest_tokens__puts_the_steepest_map_first() -> None:
    localization = torch.full((9, 3), 0.2)
    localization[4, 1], localization[2, 2] = 0.5, 0.9
    assert sharpest_tokens(localization, 2) == [2, 1]
    assert sharpest_tokens(localization) == [2, 1, 0]
