"""Mutated images of every common format, given to the image processor and to the maker of training views."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from stellar_hub.data.views import ViewMaker, ViewSettings
from stellar_hub.modeling import StellarImageProcessor

from . import SilentDifference, refusal

SIDES = (37, 52)  # height, width

PROCESSOR = StellarImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}, patch_size=8)
VIEWS = ViewSettings(16, 8, 1, 2, (0.4, 1.0), (0.05, 0.4), 0.5)
MAKERS = {
    "views": ViewMaker(VIEWS, None),
    "reduced": ViewMaker(ViewSettings(8, 8, 1, 2, (0.4, 1.0), (0.05, 0.4), 0.5, reduced_decoding=True), None),
}


def photo(mode: str = "RGB") -> Image.Image:
    """A smooth image with some noise, in a mode of Pillow."""
    height, width = SIDES
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 30, (height, width))
    values = np.stack([rows * 5, columns * 4, (rows + columns) * 2], axis=-1) + noise[..., None]
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((values[..., 0] * 250).astype(np.uint16))
    return image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)


def exif() -> bytes:
    """An EXIF block with tags of every type before and after the orientation."""
    block = Image.Exif()
    block.update({0x10F: "Maker", 0x110: "Model", 0x112: 6, 0x11A: IFDRational(72, 1), 0x132: "2026:01:01 00:00:00"})
    block[0x8769] = {0x829A: IFDRational(1, 60), 0x9003: "2026:01:01 00:00:00", 0xA002: 52}
    block[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return block.tobytes()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff_tags() -> ImageFileDirectory_v2:
    """Tags of a TIFF that say nothing about its pixels."""
    tags = ImageFileDirectory_v2()
    tags[0x10F], tags[0x112], tags[0x131] = "Maker", 8, "Software"
    return tags


def make_originals() -> dict[str, bytes]:
    """Whole images, by a name that ends with their suffix."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def pages() -> dict[str, object]:  # new each time, because Pillow leaves an encoder's settings in an image
        return {"save_all": True, "append_images": [photo().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}

    return {
        "exif.jpg": saved(photo(), "JPEG", exif=exif(), icc_profile=profile, comment=b"comment"),
        "progressive.jpg": saved(photo(), "JPEG", progressive=True, exif=exif()),
        "grey.jpg": saved(photo("L"), "JPEG", icc_profile=profile),
        "cmyk.jpg": saved(photo("CMYK"), "JPEG"),
        "mpo.jpg": saved(photo(), "MPO", **pages()),
        "rgb.png": saved(photo(), "PNG", icc_profile=profile, exif=exif()),
        "rgba.png": saved(photo("RGBA"), "PNG"),
        "wide.png": saved(photo("I;16"), "PNG", transparency=1000),
        "palette.png": saved(photo("P"), "PNG", transparency=3),
        "animated.png": saved(photo(), "PNG", **pages()),
        "tags.tif": saved(photo(), "TIFF", tiffinfo=tiff_tags(), icc_profile=profile),
        "pages.tif": saved(photo(), "TIFF", **pages()),
        "deflated.tif": saved(photo(), "TIFF", compression="tiff_adobe_deflate"),
        "lzw.tif": saved(photo("L"), "TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved(photo(), "TIFF", compression="jpeg"),
        "wide.tif": saved(photo("I;16"), "TIFF"),
        "lossy.webp": saved(photo(), "WEBP", exif=exif(), icc_profile=profile),
        "lossless.webp": saved(photo("RGBA"), "WEBP", lossless=True),
        "animated.webp": saved(photo(), "WEBP", **pages()),
        "a.avif": saved(photo(), "AVIF", exif=exif(), icc_profile=profile),
        "a.gif": saved(photo("P"), "GIF", transparency=1, **pages()),
        "a.bmp": saved(photo(), "BMP"),
        "palette.bmp": saved(photo("P"), "BMP"),
        "a.ppm": saved(photo(), "PPM"),
        "a.pgm": saved(photo("I;16"), "PPM"),
        "a.jp2": saved(photo(), "JPEG2000"),
        "a.tga": saved(photo(), "TGA", compression="tga_rle"),
        "a.qoi": saved(photo(), "QOI"),
        "a.pcx": saved(photo(), "PCX"),
        "a.sgi": saved(photo(), "SGI"),
        "a.dds": saved(photo("RGBA"), "DDS"),
    }


ORIGINALS = make_originals()


def flip_bytes(rng: random.Random, data: bytearray) -> bytes:
    """Changes 1 to 6 bytes, half of the time near the beginning."""
    for _ in range(rng.randint(1, 6)):
        last = len(data) if rng.random() < 0.5 else min(len(data), 600)
        data[rng.randrange(last)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(data)


def cut_short(rng: random.Random, data: bytearray) -> bytes:
    """Keeps the beginning."""
    return bytes(data[: rng.randrange(len(data))])


def drop_part(rng: random.Random, data: bytearray) -> bytes:
    """Removes, doubles or exchanges a part."""
    start = rng.randrange(len(data))
    part = bytes(data[start : start + rng.randint(1, 200)])
    middle = rng.choice((b"", part * 2, rng.randbytes(len(part)), bytes(len(part))))
    return bytes(data[:start]) + middle + bytes(data[start + len(part) :])


def change_number(rng: random.Random, data: bytearray) -> bytes:
    """Writes an extreme number of 2, 4 or 8 bytes near the beginning: sizes, counts, offsets."""
    code, size = rng.choice((("H", 2), ("I", 4), ("Q", 8)))
    top = 2 ** (8 * size)
    value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, 16384, 65500 % top, rng.randrange(top)))
    place = rng.randrange(max(1, min(len(data) - size, 300)))
    data[place : place + size] = struct.pack(rng.choice("<>") + code, value)
    return bytes(data)


def edit_png(rng: random.Random, data: bytearray) -> bytes:
    """Changes one chunk of a PNG, or adds one, with a right checksum."""
    if not data.startswith(b"\x89PNG"):
        return change_number(rng, data)
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        chunks.append((bytes(data[place + 4 : place + 8]), bytearray(data[place + 8 : place + 8 + length])))
        place += 12 + length
    if rng.random() < 0.4:
        name = rng.choice((b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"pHYs", b"gAMA", b"cHRM", b"acTL"))
        content = rng.choice((b"", b"icc\0", b"a\0\0" + zlib.compress(bytes(99)), rng.randbytes(rng.randint(1, 60))))
        chunks.insert(rng.randrange(1, len(chunks)), (name, bytearray(content)))
    else:
        content = rng.choice(chunks)[1]
        if content:
            content[rng.randrange(len(content))] = rng.randrange(256)
    made = bytearray(data[:8])
    for name, content in chunks:
        made += struct.pack(">I", len(content)) + name + content
        made += struct.pack(">I", zlib.crc32(name + bytes(content)))
    return bytes(made)


def edit_tags(rng: random.Random, data: bytearray) -> bytes:
    """Changes the type, the count or the value of tags of a TIFF or of an EXIF block."""
    starts = [place for mark in (b"II*\0", b"MM\0*") for place in [bytes(data).find(mark)] if place >= 0]
    if not starts:
        return flip_bytes(rng, data)
    start = min(starts)
    order = "<" if data[start : start + 2] == b"II" else ">"
    directory = start + struct.unpack_from(order + "I", data, start + 4)[0]
    if directory + 2 > len(data):
        return flip_bytes(rng, data)
    count = struct.unpack_from(order + "H", data, directory)[0]
    for _ in range(rng.randint(1, 3)):
        entry = directory + 2 + 12 * rng.randrange(max(1, count))
        what, code = rng.choice(((2, "H"), (4, "I"), (8, "I"), (0, "H")))
        value = rng.choice((0, 1, 2, 5, 12, 13, 0xFFFF, rng.randrange(0x10000)))
        if entry + what + 4 <= len(data):
            struct.pack_into(order + code, data, entry + what, value)
    return bytes(data)


MUTATIONS: tuple[Callable[[random.Random, bytearray], bytes], ...] = (
    flip_bytes,
    cut_short,
    drop_part,
    change_number,
    edit_png,
    edit_tags,
)


def make(rng: random.Random, folder: Path) -> Path:
    """Writes a mutated image, under a suffix that need not be its own."""
    name = rng.choice(sorted(ORIGINALS))
    data = bytearray(ORIGINALS[name])
    mutation = rng.choice(MUTATIONS[:4])
    if rng.random() < 0.4:
        mutation = edit_png if name.endswith(".png") else edit_tags
    suffix = rng.choice((Path(name).suffix, ".jpg"))
    path = folder / f"{rng.choice(('views', 'reduced', 'processor', 'processor'))}-{Path(name).stem}{suffix}"
    path.write_bytes(mutation(rng, data))
    return path


def attempt(path: Path) -> str:
    """Prepares the image for a model, or makes its training views."""
    maker = MAKERS.get(path.name.split("-")[0])
    try:
        if maker is not None:
            pixels = maker(path, torch.Generator().manual_seed(0))["global_views"]
        else:
            pixels = PROCESSOR(path)["pixel_values"]
    except (ValueError, OSError) as error:
        return refusal(error, path.name)
    if pixels.is_floating_point() and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise SilentDifference(f"values from {pixels.min()} to {pixels.max()}")
    return "ok"


def prepare() -> None:
    """Reads an image of each format once, so that what decoders load does not count as a case's memory."""
    for data in ORIGINALS.values():
        PROCESSOR(data)
