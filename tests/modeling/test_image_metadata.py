import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from stellar_hub.modeling.image_loading import load_rgb
from stellar_hub.modeling.image_metadata import orientation_in_exif, without_metadata


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def exif(orientation: int, *others: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block with the orientation among other tags: `(tag, type, count, value)`."""
    entries = sorted([(0x112, 3, 1, struct.pack(order + "HH", orientation, 0)), *others])
    block = b"Exif\0\0" + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return block + struct.pack(order + "I", 0) + struct.pack(order + "II", 1, 2)


def saved(kind: str, **options: object) -> bytes:
    image, buffer = Image.linear_gradient("L").resize((20, 10)).convert("RGB"), io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


BROKEN = {
    "a rational where text belongs": (0x10F, 5, 1, struct.pack("<I", 46)),
    "a value outside": (0x10F, 2, 999, struct.pack("<I", 2**31)),
    "an unknown type": (0x110, 77, 1, b""),
    "a loop of directories": (0x8769, 4, 1, struct.pack("<I", 8)),
    "a directory outside": (0x8825, 4, 1, struct.pack("<I", 2**32 - 1)),
    "a resolution without end": (0x11A, 5, 2**31, struct.pack("<I", 8)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_broken_exif__costs_neither_pixels_nor_orientation(kind: str, broken: tuple[int, int, int, bytes]) -> None:
    turned = load_rgb(saved(kind, exif=exif(6)))
    assert turned.shape == (3, 20, 10)
    if kind == "AVIF":  # Pillow translates the orientation when it saves, so the block is changed afterwards
        data = saved(kind, exif=exif(1, (0x10F, 2, 1, b"")))
        assert load_rgb(data.replace(exif(1, (0x10F, 2, 1, b""))[6:], exif(1, broken)[6:])).shape == (3, 10, 20)
    else:
        assert (load_rgb(saved(kind, exif=exif(6, broken))) == turned).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation__is_found_in_either_byte_order(order: str, orientation: int) -> None:
    assert orientation_in_exif(exif(orientation, order=order)) == orientation


@pytest.mark.parametrize("data", [b"", b"II*\0", b"Exif\0\0", b"II*\0\xff\xff\xff\x7f" + bytes(9), exif(9)])
def test_no_orientation__is_none(data: bytes) -> None:
    assert orientation_in_exif(data) is None


BROKEN_CHUNKS = [(b"iCCP", b"icc\0"), (b"iCCP", b""), (b"zTXt", b"a\0\7"), (b"iTXt", b"a\0\1\0\0\0x"), (b"pHYs", b"1")]


@pytest.mark.parametrize(("name", "content"), BROKEN_CHUNKS)
@pytest.mark.parametrize("at_the_end", [False, True])
def test_broken_chunk_of_a_png__costs_nothing(name: bytes, content: bytes, at_the_end: bool) -> None:
    whole = saved("PNG")
    place = len(whole) - 12 if at_the_end else 33
    assert (load_rgb(whole[:place] + chunk(name, content) + whole[place:]) == load_rgb(whole)).all()


def test_profile__is_kept_on_request() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = saved("PNG", icc_profile=profile)
    bare = without_metadata(whole, keep_profile=True)
    assert bare is not None
    assert b"iCCP" in bare[0]
    without = without_metadata(whole, keep_profile=False)
    assert without is not None
    assert b"iCCP" not in without[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_without_metadata__keeps_the_pixels(kind: str) -> None:
    whole = saved(kind, exif=exif(1), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    bare = without_metadata(whole, keep_profile=False)
    assert bare is not None
    assert (np.asarray(Image.open(io.BytesIO(bare[0]))) == np.asarray(Image.open(io.BytesIO(whole)))).all()


@pytest.mark.filterwarnings("ignore")
def test_broken_tags_of_a_tiff__cost_nothing() -> None:
    tags = Image.Exif()
    tags[0x10F], tags[0x112] = "Maker", 6
    data = bytearray(saved("TIFF", exif=tags.tobytes()))
    start = struct.unpack_from("<I", data, 4)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, place)[0] == 0x10F:
            struct.pack_into("<HII", data, place + 2, 12, 99, 2**31)
    assert load_rgb(bytes(data)).shape == (3, 20, 10)


@pytest.mark.parametrize("cut", [40, 60])
def test_damaged_pixels__are_not_hidden(cut: int) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        load_rgb(saved("PNG")[:cut] + bytes(100))
