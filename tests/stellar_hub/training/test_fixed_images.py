from pathlib import Path

import pytest
import torch
from PIL import Image
from stellar_hub.modeling import StellarConfig, StellarImageProcessor
from torch import Tensor

from stellar_hub.data.sources import open_sources
from stellar_hub.data.streams import TarStream
from stellar_hub.training.fixed_images import NUM_FIXED_IMAGES, fixed_images
from tests.stellar_hub.data.sources.conftest import png, write_tar
from tests.stellar_hub.training.conftest import draw_pictures

CONFIG = StellarConfig(image_size=32, patch_size=8)


def images_of(folder: Path) -> Tensor:
    return fixed_images(open_sources([folder]), CONFIG)


def test_images__are_as_the_model_sees_them(picture_folder: Path) -> None:
    images = images_of(picture_folder)
    assert images.shape == (NUM_FIXED_IMAGES, 3, 32, 32)
    processor = StellarImageProcessor.from_config(CONFIG)
    expected = processor(picture_folder / "picture-0.png", return_tensors="pt")["pixel_values"][0]
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
    assert images_of(draw_pictures(tmp_path / "one", 1)).shape == (1, 3, 32, 32)


def test_images__are_others_where_some_cannot_be_read(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "some", 9)
    for index in (0, 4, 8):
        (folder / f"picture-{index}.png").write_bytes(b"damaged")
    assert images_of(folder).shape == (6, 3, 32, 32)


def test_images__of_which_none_can_be_read_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(b"damaged")
    message = rf"none of 3 pictures tried can be read; the first: {folder / '0.png'}"
    with pytest.raises(ValueError, match=message):
        images_of(folder)


def test_stream__gives_its_first_pictures_past_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar")
    write_tar(tmp_path / "b.tar", {"0.png": b"damaged", "1.png": png(51, side=32), "2.png": png(102, side=32)})
    images = fixed_images(TarStream([str(tmp_path / name) for name in ("a.tar", "b.tar")]), CONFIG)
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.2, 0.4]))


def test_stream_without_pictures__is_an_error(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"0.txt": b"text"})
    with pytest.raises(ValueError, match="none of 0 pictures tried can be read"):
        fixed_images(TarStream([str(tar)]), CONFIG)
