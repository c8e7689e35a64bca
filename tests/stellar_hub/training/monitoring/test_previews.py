from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources import open_sources
from stellar_hub.data.streams import TarStream
from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.localization_maps import token_colors
from stellar_hub.training.monitoring.previews import (
    CAPTION,
    GAP,
    HEAD,
    MARGIN,
    NUM_FIXED_IMAGES,
    SIDE,
    draw_preview,
    fixed_images,
)
from tests.stellar_hub.data.sources.conftest import png, write_tar
from tests.stellar_hub.training.conftest import draw_images

CONFIG = StellarConfig(image_size=32, patch_size=8)


def images_of(folder: Path) -> Tensor:
    return fixed_images(open_sources([folder]), CONFIG)


def test_images__are_as_the_model_sees_them(image_folder: Path) -> None:
    images = images_of(image_folder)
    assert images.shape == (NUM_FIXED_IMAGES, 3, 32, 32)
    processor = StellarImageProcessor.from_config(CONFIG)
    expected = processor(image_folder / "image-0.png", return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(images[0], expected)


def test_images__are_spread_over_many(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(120):
        Image.new("RGB", (32, 32), (2 * index, 0, 0)).save(folder / f"{index:03d}.png")
    red = (images_of(folder)[:, 0, 0, 0] * 255 / 2).round().int().tolist()
    assert len(red) == NUM_FIXED_IMAGES
    assert red[0] == 0
    assert red[-1] > 90
    assert red == sorted(red)


def test_images__are_fewer_where_there_are_fewer(tmp_path: Path) -> None:
    assert images_of(draw_images(tmp_path / "one", 1)).shape == (1, 3, 32, 32)


def test_images__are_others_where_some_cannot_be_read(tmp_path: Path) -> None:
    folder = draw_images(tmp_path / "some", 9)
    for index in (0, 4, 8):
        (folder / f"image-{index}.png").write_bytes(b"damaged")
    assert images_of(folder).shape == (6, 3, 32, 32)


def test_images__of_which_none_can_be_read_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"none of 3 .*{folder / '0.png'}"):
        images_of(folder)


def test_stream__gives_its_first_images_past_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar")
    write_tar(tmp_path / "b.tar", {"0.png": b"damaged", "1.png": png(51, side=32), "2.png": png(102, side=32)})
    images = fixed_images(TarStream([str(tmp_path / name) for name in ("a.tar", "b.tar")]), CONFIG)
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.2, 0.4]))


def test_stream_without_images__is_an_error(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"0.txt": b"text"})
    with pytest.raises(ValueError, match="has no images"):
        fixed_images(TarStream([str(tar)]), CONFIG)


def corner_of(image: Image.Image, row: int, column: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """The panel at this place of an image without a title."""
    left, top = MARGIN + column * (size[0] + GAP), MARGIN + HEAD + row * (size[1] + CAPTION + GAP)
    return image.crop((left, top, left + size[0], top + size[1]))


def test_draw_preview__shows_input_and_reconstruction(pixel_model: StellarModel) -> None:
    images = torch.full((2, 3, 32, 32), 0.2)
    images[1] = 0.8
    with torch.inference_mode():
        decoded = pixel_model.decode(*pixel_model.encode(images))
    image = draw_preview(pixel_model, images)
    assert image.mode == "RGB"
    for row, value in enumerate((51, 204)):
        assert corner_of(image, row, 0).getpixel((SIDE // 2, SIDE // 2)) == (value, value, value)
        shown = torch.tensor(list(corner_of(image, row, 1).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))))  # type: ignore[arg-type]
        torch.testing.assert_close(shown / 255, decoded[row].mean(dim=(1, 2)), rtol=0, atol=0.02)


def test_draw_preview__works_with_either_head(model: StellarModel, images: Tensor) -> None:
    image = draw_preview(model, images)
    assert image.width == 2 * MARGIN + 7 * (SIDE + GAP) - GAP


def test_draw_preview__without_a_decoder_leaves_the_reconstruction_out(
    build_model: Callable[..., StellarModel], images: Tensor
) -> None:
    image = draw_preview(build_model(use_decoder=False), images)
    assert image.width == 2 * MARGIN + 6 * (SIDE + GAP) - GAP


def test_draw_preview__draws_at_most_eight_rows(pixel_model: StellarModel) -> None:
    images = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert draw_preview(pixel_model, images).height == draw_preview(pixel_model, images[:8]).height


def test_draw_preview__makes_room_for_a_title(pixel_model: StellarModel, images: Tensor) -> None:
    plain = draw_preview(pixel_model, images)
    assert draw_preview(pixel_model, images, title="step 200").height > plain.height


@pytest.mark.parametrize("num_tokens", [1, 2, 9])
def test_draw_preview__takes_any_number_of_tokens_and_sides(
    build_model: Callable[..., StellarModel], num_tokens: int
) -> None:
    model = build_model(num_sparse_tokens=num_tokens, reconstruction_head="pixel")
    image = draw_preview(model, torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0)))
    assert image.width == 2 * MARGIN + (3 + min(4, num_tokens)) * (SIDE + GAP) - GAP


def test_draw_preview__takes_bytes_and_other_dtypes(pixel_model: StellarModel, images: Tensor) -> None:
    images = (images * 255).to(torch.uint8)
    expected = draw_preview(pixel_model, images)
    assert draw_preview(pixel_model, images / 255).tobytes() == expected.tobytes()
    assert draw_preview(pixel_model.bfloat16(), images).size == expected.size


def test_draw_preview__survives_weights_that_are_nan(pixel_model: StellarModel, images: Tensor) -> None:
    with torch.no_grad():
        for parameter in pixel_model.parameters():
            parameter.fill_(torch.nan)
    assert draw_preview(pixel_model, images).mode == "RGB"


def test_draw_preview__changes_nothing(vq_model: StellarModel, images: Tensor) -> None:
    assert vq_model.tokenizer is not None
    vq_model.train()
    vq_model.tokenizer.eval()
    modes = [module.training for module in vq_model.modules()]
    before, state = images.clone(), torch.get_rng_state()
    draw_preview(vq_model, images)
    assert [module.training for module in vq_model.modules()] == modes
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    vq_model.encode(images).semantics.sum().backward()  # no tensor of inference mode stayed behind


def test_draw_preview__restores_the_modes_after_an_error(
    pixel_model: StellarModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pixel_values: Tensor) -> None:
        assert not pixel_model.training
        raise RuntimeError("out of memory")

    monkeypatch.setattr(pixel_model.train(), "encode", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        draw_preview(pixel_model, images)
    assert all(module.training for module in pixel_model.modules())


def test_draw_preview__refuses_sides_that_do_not_fit(pixel_model: StellarModel) -> None:
    with pytest.raises(ValueError, match="33"):
        draw_preview(pixel_model, torch.zeros(1, 3, 33, 32))


def test_draw_preview__puts_the_steepest_map_first(pixel_model: StellarModel, images: Tensor) -> None:
    with torch.inference_mode():
        localization = pixel_model.encode(images[:1]).localization[0]
    steepest = int((localization.amax(dim=0) - localization.mean(dim=0)).argmax())
    image = draw_preview(pixel_model, images[:1])
    left, below = MARGIN + 3 * (SIDE + GAP), MARGIN + HEAD + SIDE + 5
    color = (token_colors(localization.shape[1])[steepest] * 255).round().int().tolist()
    assert image.getpixel((left + 2, below + 5)) == tuple(color)
