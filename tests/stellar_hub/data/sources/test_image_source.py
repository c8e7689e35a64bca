import hashlib
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import EncodedImage, read_image
from stellar_hub.data.sources.image_source import image_digest
from tests.stellar_hub.data.sources.conftest import png


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_encoded__reads_as_the_same_file_does(tmp_path: Path, kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "P"):
        mode = "CMYK"
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


@pytest.mark.parametrize("data", [b"", b"no image", png(3)[:40]])
def test_damaged__is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^shard\.tar/a\.png cannot be read as an image: "):
        read_image(EncodedImage("shard.tar/a.png", data))


@pytest.mark.parametrize("data", [b"", b"no image", png(3)[:40]])
def test_damaged__is_named_in_the_same_words_each_time(data: bytes) -> None:
    said = set()
    for copied in (bytearray(data), bytearray(data)):  # each at a place of its own in memory
        with pytest.raises(ValueError, match=r"a\.png") as caught:
            read_image(EncodedImage("a.png", bytes(copied)))
        said.add(str(caught.value))
    assert len(said) == 1
    assert " at 0x" not in said.pop()


def test_missing_file__is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


def test_digest__is_of_the_bytes_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"image")
    expected = hashlib.sha256(b"image").hexdigest()
    assert image_digest(tmp_path / "a.png") == expected
    assert image_digest(EncodedImage("b", b"image")) == expected
    with pytest.raises(FileNotFoundError):
        image_digest(tmp_path / "b.png")
