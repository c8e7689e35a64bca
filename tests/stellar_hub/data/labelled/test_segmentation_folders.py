"""Images with masks."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.labelled import read_segmentation_folder
from stellar_hub.data.labelled.segmentation_folders import read_mask
from stellar_hub.measures import UNLABELLED
from stellar_hub.old_names import old_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 6 x 4 pixels and their masks of classes 0, 1, 2 and 255."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    values = np.array([[0, 0, 1, 1], [0, 255, 1, 1]], dtype=np.uint8).repeat(3, axis=0)
    for number, name in enumerate(("a", "sub/b")):
        Image.new("RGB", (4, 6), (number, 0, 0)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(values).save(tmp_path / "masks" / f"{name}.png")
    extra = values.copy()
    extra[0, 0] = 2
    Image.fromarray(extra).save(tmp_path / "masks" / "sub" / "b.png")
    return tmp_path


def test_folder__pairs_images_with_masks_and_numbers_classes(folder: Path) -> None:
    found = read_segmentation_folder(folder)
    assert [path.name for path in found.images] == ["a.jpg", "b.jpg"]
    assert found.classes == ("0", "1", "2")
    mask = found.mask(1)
    assert mask.dtype == torch.uint8
    assert mask.shape == (6, 4)
    assert sorted(mask.unique().tolist()) == [0, 1, 2, UNLABELLED]


def test_hidden_files_beside_masks__are_not_counted(folder: Path) -> None:
    (folder / "masks" / "._a.png").touch()
    assert read_segmentation_folder(folder).notes == ()
    (folder / "masks" / "c.png").touch()
    assert len(read_segmentation_folder(folder).notes) == 1


def test_folder_of_earlier_releases__opens(folder: Path) -> None:
    expected = read_segmentation_folder(folder)
    old = next(old for old, new in old_names("folders").items() if new == "images")
    (folder / "images").rename(folder / old)
    found = read_segmentation_folder(folder)
    assert [path.relative_to(folder / old) for path in found.images] == [
        path.relative_to(folder / "images") for path in expected.images
    ]
    assert found.masks == expected.masks
    (folder / "images").mkdir()  # a folder with the current name comes first
    Image.new("RGB", (4, 6)).save(folder / "images" / "a.jpg")
    assert read_segmentation_folder(folder).images == (folder / "images" / "a.jpg",)


def test_image_that_cannot_be_read__is_named(folder: Path) -> None:
    (folder / "images" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.jpg"):
        read_segmentation_folder(folder).mask(0)


def test_names__are_those_of_the_file_or_given(folder: Path) -> None:
    (folder / "classes.txt").write_text("sky\nsea\nsand\nstone\n")
    assert read_segmentation_folder(folder).classes == ("sky", "sea", "sand", "stone")
    assert read_segmentation_folder(folder, ("a", "b", "c")).classes == ("a", "b", "c")
    (folder / "classes.txt").write_bytes("sky\nsea\nsand\n".encode("utf-8-sig"))
    assert read_segmentation_folder(folder).classes == ("sky", "sea", "sand")
    (folder / "classes.txt").write_bytes("sky\nsea\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"classes\.txt must be text in UTF-8"):
        read_segmentation_folder(folder)
    for text in ("", "sky\n\nsand\n", "sky\nsky\n", "\n".join(map(str, range(256)))):
        (folder / "classes.txt").write_text(text)
        with pytest.raises(ValueError, match=r"classes\.txt"):
            read_segmentation_folder(folder)


def test_mask_of_another_size__is_refused(folder: Path) -> None:
    Image.new("L", (4, 5)).save(folder / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png .* 6 x 4 .* 5 x 4"):
        read_segmentation_folder(folder).mask(0)


def test_orientation__of_the_image_is_applied(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.new("RGB", (6, 4)).save(folder / "images" / "a.jpg", exif=exif)
    assert read_segmentation_folder(folder).mask(0).shape == (6, 4)


def test_label_without_a_class__is_refused(folder: Path) -> None:
    (folder / "classes.txt").write_text("sky\nsea\n")
    found = read_segmentation_folder(folder)
    found.mask(0)
    with pytest.raises(ValueError, match=r"b\.png has the label 2, allowed are 0 to 1 and 255"):
        found.mask(1)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda root: [path.unlink() for path in (root / "masks").rglob("*.png")],
            FileNotFoundError,
            r"none of the 2 images .*masks/a\.png",
        ),
        (lambda root: (root / "masks").rename(root / "other"), FileNotFoundError, "masks"),
        (
            lambda root: Image.new("RGB", (4, 6)).save(root / "images" / "a.png"),
            ValueError,
            "suffix",
        ),
        (lambda root: [path.write_bytes(b"x") for path in (root / "masks").rglob("*.png")], ValueError, r"a\.png"),
    ],
)
def test_other_folders__are_refused(
    folder: Path, spoil: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    spoil(folder)
    with pytest.raises(error, match=message):
        read_segmentation_folder(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"x"), r"a\.png"),
        (lambda path: path.write_bytes(path.read_bytes()[:45]), r"a\.png"),
        (lambda path: Image.new("RGB", (4, 6)).save(path), "RGB"),
        (lambda path: Image.new("LA", (4, 6)).save(path), "LA"),
        (lambda path: Image.new("L", (4, 6)).save(path, format="JPEG"), "JPEG"),
        (lambda path: path.unlink(), "has no mask"),
    ],
)
def test_mask_that_cannot_be_used__is_named_and_the_others_go_on(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder / "masks" / "a.png")
    found = read_segmentation_folder(folder)
    assert found.classes == ("0", "1", "2")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        found.mask(0)
    assert found.mask(1).shape == (6, 4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits__is_read_as_numbers(tmp_path: Path, bits: int) -> None:
    largest = 2**bits - 1
    values = bytes([0b10110001]) if bits == 1 else bytes([0, largest]) if bits == 4 else bytes([0b00011011])
    width = 8 // bits * len(values)
    header = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + values)), (b"IEND", b"")]
    parts = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    ]
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    expected = {1: [1, 0, 1, 1, 0, 0, 0, 1], 2: [0, 1, 2, 3], 4: [0, 0, 0, 15]}[bits]
    assert read_mask(tmp_path / "m.png").tolist() == [expected]


def test_palettes_and_wide_numbers__are_read_as_numbers(tmp_path: Path) -> None:
    values = np.array([[3, 7]], dtype=np.uint8)
    palette = Image.fromarray(values, mode="P")
    palette.putpalette([200] * 768)
    palette.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png").tolist() == [[3, 7]]
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "w.png")
    assert read_mask(tmp_path / "w.png").tolist() == [[3, 7]]
    Image.fromarray(np.array([[300]], dtype=np.uint16)).save(tmp_path / "w.png")
    with pytest.raises(ValueError, match="0 to 255, got 300"):
        read_mask(tmp_path / "w.png")
