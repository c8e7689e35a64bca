import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import EncodedPicture, read_picture
from tests.stellar_hub.data.sources.conftest import png


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_encoded__reads_as_the_same_file_does(tmp_path: Path, kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "P"):
        mode = "CMYK"
    buffer = io.BytesIO()
    Image.effect_noise((20, 10), 50).convert(mode).save(buffer, format=kind)
    (tmp_path / "file").write_bytes(buffer.getvalue())
    from_file = read_picture(tmp_path / "file")
    torch.testing.assert_close(read_picture(EncodedPicture("x", buffer.getvalue())), from_file, rtol=0, atol=0)
    assert from_file.shape == (3, 10, 20)


def test_encoded__turns_as_its_exif_says() -> None:
    picture, buffer = Image.new("RGB", (20, 10)), io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(buffer, format="JPEG", exif=exif)
    assert read_picture(EncodedPicture("x", buffer.getvalue())).shape == (3, 20, 10)


@pytest.mark.parametrize("data", [b"", b"no picture", png(3)[:40]])
def test_damaged__is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^shard\.tar/a\.png cannot be read as a picture: "):
        read_picture(EncodedPicture("shard.tar/a.png", data))


@pytest.mark.parametrize("data", [b"", b"no picture", png(3)[:40]])
def test_damaged__is_named_in_the_same_words_each_time(data: bytes) -> None:
    said = set()
    for copied in (bytearray(data), bytearray(data)):  # each at a place of its own in memory
        with pytest.raises(ValueError, match=r"a\.png") as caught:
            read_picture(EncodedPicture("a.png", bytes(copied)))
        said.add(str(caught.value))
    assert len(said) == 1
    assert " at 0x" not in said.pop()


def test_missing_file__is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_picture(tmp_path / "gone.png")
