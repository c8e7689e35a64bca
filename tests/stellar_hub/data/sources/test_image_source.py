import hashlib
import io
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import EncodedImage, ImageItem, read_image
from stellar_hub.data.sources.image_source import file_stamp, image_digest, image_name_of, skipped_entry, stamp_of
from tests.stellar_hub.data.sources.conftest import png


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGB"), ("GIF", "P"), ("TIFF", "RGB")]
)
def test_encoded__reads_as_the_same_file_does(tmp_path: Path, kind: str, mode: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((20, 10), 50).convert(mode).save(buffer, format=kind)
    (tmp_path / "file").write_bytes(buffer.getvalue())
    from_file = read_image(tmp_path / "file")
    torch.testing.assert_close(read_image(EncodedImage("x", buffer.getvalue())), from_file, rtol=0, atol=0)
    assert from_file.shape == (3, 10, 20)


def test_encoded__turns_as_its_exif_says() -> None:
    image, buffer = Image.new("RGB", (20, 10)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, format="JPEG", exif=exif)
    assert read_image(EncodedImage("x", buffer.getvalue())).shape == (3, 20, 10)


@pytest.mark.parametrize("data", [b"", b"not an image", png(3)[:40], b"BM" + bytes(40)])
def test_damaged__is_named_in_the_same_words_each_time(data: bytes) -> None:
    messages = set()
    for copied in (bytearray(data), bytearray(data)):  # each at its own place in memory
        with pytest.raises(ValueError, match=r"^shard\.tar/a\.png ") as caught:
            read_image(EncodedImage("shard.tar/a.png", bytes(copied)))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert " at 0x" not in messages.pop()


@pytest.mark.parametrize("read", [read_image, image_digest])
def test_missing_file__is_named(tmp_path: Path, read: object) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read(tmp_path / "gone.png")  # type: ignore[operator]


def test_digest__is_of_the_bytes_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    expected = hashlib.sha256(b"image").hexdigest()
    assert image_digest(tmp_path / "a.png") == image_digest(EncodedImage("b", b"image")) == expected


@pytest.mark.parametrize("image", [Path("a/b.png"), EncodedImage("a/b.png", b"")])
@pytest.mark.parametrize("message", ["a/b.png: damaged", "a/b.png damaged", "damaged"])
def test_skipped_entry__names_the_image_once(image: ImageItem, message: str) -> None:
    assert skipped_entry(image, ValueError(message)) == "a/b.png: damaged"


def test_stamp__changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    before = file_stamp(path)
    os.utime(path, ns=(10, 10))
    assert file_stamp(path) != before
    assert file_stamp(path) == stamp_of([path], 0) == f"{len(png(1))} 10"


def test_stamp__is_empty_where_it_is_unknown(tmp_path: Path) -> None:
    assert file_stamp(tmp_path / "gone.png") == ""
    assert stamp_of([EncodedImage("a", b"")], 0) == ""


def test_name__is_that_of_a_path_or_an_encoded_image() -> None:
    images: list[ImageItem] = [Path("a/b.png"), "c.png", EncodedImage("t.tar/d.png", b"")]
    assert [image_name_of(images, index) for index in range(3)] == ["a/b.png", "c.png", "t.tar/d.png"]
    with pytest.raises(TypeError, match="image 0 of the source has no name, it is Tensor"):
        image_name_of([torch.zeros(3, 8, 8)], 0)  # type: ignore[list-item]
