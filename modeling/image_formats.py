"""The formats of images that are read, and opening a file of one of them: its content decides, never its suffix."""

import contextlib
import importlib
import io
import struct
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import IO

from PIL import Image

from .image_errors import translated, unreadable
from .limits import check_limit

# The formats that are read, by Pillow's names, and the suffixes of their files. The content decides, never the suffix.
# None of them runs another program, as EPS does, or draws, as WMF and PDF do. TGA is last, because it has no mark.
FORMAT_SUFFIXES = {
    "PNG": (".apng", ".png"),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "MPO": (".mpo",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    "PPM": (".pbm", ".pfm", ".pgm", ".pnm", ".ppm"),
    "QOI": (".qoi",),
    "SGI": (".bw", ".rgb", ".rgba", ".sgi"),
    "SUN": (".ras",),
    "DDS": (".dds",),
    "DIB": (".dib",),
    "PCX": (".pcx",),
    "TGA": (".icb", ".tga", ".vda", ".vst"),
}
ALLOWED_FORMATS = tuple(FORMAT_SUFFIXES)
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMAT_SUFFIXES.values() for suffix in suffixes)

_WEAK_MARKS = ("DIB", "PCX", "TGA")  # other files may begin like these
UNSAFE_FORMATS = ("EPS", "WMF", "PSD", "FPX", "BUFR", "GRIB", "HDF5")
# Their decoders hold the image several times, so that each pixel counts so often against the limit.
_DECODER_COPIES = {"WEBP": 3, "AVIF": 3, "HEIF": 3, "JPEG2000": 3}
_OTHER_KINDS = (
    (b"%!PS", "it is PostScript, which another program would have to run"),
    (b"\xc5\xd0\xd3\xc6", "it is PostScript, which another program would have to run"),
    (b"%PDF", "it is a PDF"),
    (b"8BPS", "it is a Photoshop file: export it as PNG"),
    (b"\xd7\xcd\xc6\x9a", "it is a WMF drawing: export it as PNG"),
    (b"<svg", "it is an SVG drawing: export it as PNG"),
    (b"<!DOCTYPE", "it is a web page"),
    (b"<html", "it is a web page"),
    (b"\xff\x0a", "it is JPEG XL: convert it to PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "it is JPEG XL: convert it to PNG or JPEG"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_encoded(data: bytes | IO[bytes], name: str) -> Image.Image:
    """Opens an image and reads its header only. The content decides about its format.

    Args:
        data: Bytes of the file, or the open file, which the caller closes.
        name: Name of the image in errors.

    Raises:
        UnreadableImageError: if it is none of `ALLOWED_FORMATS`, its header is damaged, or it is too large.
    """
    file = io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data
    prefix = file.read(64)
    formats = [kind for kind in ALLOWED_FORMATS if _begins_like(kind, prefix)]
    if any(kind not in _WEAK_MARKS for kind in formats):
        formats = [kind for kind in formats if kind not in _WEAK_MARKS]
    first: Exception | None = None
    for kind in formats:
        file.seek(0)
        try:
            # Not `Image.open`: it warns of large images, whose size is compared with our own limit.
            image: Image.Image = Image.OPEN[kind][0](file, "")
        except Exception as error:
            first = first or error
        else:
            check_pixels(image, name)
            return image
    if first is None or (len(formats) == 1 and formats[0] == "TGA"):
        raise unreadable(name, _why_unknown(prefix))
    raise translated(first, name, (0, 0)) from (None if isinstance(first, MemoryError) else first)


def _begins_like(kind: str, prefix: bytes) -> bool:
    """Whether a file that begins so can have a format, and its decoder is there."""
    if kind == "HEIF" and prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS:
        _register_heif()
    Image.init()
    if kind not in Image.OPEN or not prefix:
        return False
    accepts = Image.OPEN[kind][1]
    try:
        return accepts is None or accepts(prefix[:16]) is True
    except (struct.error, IndexError):  # shorter than any file of this format
        return False


@lru_cache(maxsize=1)
def _register_heif() -> None:
    """Registers the plugin of HEIF images if it is installed and the user has not done so."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()


def _why_unknown(prefix: bytes) -> str:
    if not prefix:
        return "the file is empty"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF_BRANDS:
        return "it is HEIF (.heic), which needs a plugin: install it with `pip install pillow-heif`"
    if prefix[4:8] == b"ftyp":
        return "it is a video, or AVIF, which this Pillow does not read"
    text = prefix.lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next((kind for mark, kind in _OTHER_KINDS if text.lower().startswith(mark.lower())), None)
    return kind or "it is of no known format"


def check_pixels(image: Image.Image, name: str) -> None:
    """Raises UnreadableImageError if the size of an image that was opened is beyond the limit."""
    width, height = image.size
    if width < 1 or height < 1:
        raise unreadable(name, f"it has {height} x {width} pixels")
    copies = _DECODER_COPIES.get(image.format or "", 1) if getattr(image, "tile", None) else 1
    subject = "it" if copies == 1 else f"it, counted {copies} times because its {image.format} decoder needs so much,"
    try:
        check_limit("image_pixels", copies * width * height, subject)
    except ValueError as error:
        raise unreadable(name, error) from None


def check_bytes(size: int, name: str) -> None:
    """Raises UnreadableImageError if the size of an image's file in bytes is beyond the limit."""
    try:
        check_limit("image_bytes", size, "it")
    except ValueError as error:
        raise unreadable(name, error) from None


@contextlib.contextmanager
def without_size_warning(image: Image.Image) -> Iterator[None]:
    """Keeps Pillow from warning of the size of a TIFF, which was compared with our own limit.

    The filters of warnings belong to the whole process, so they are touched for such images only.
    """
    allowed = Image.MAX_IMAGE_PIXELS
    if image.format != "TIFF" or allowed is None or image.width * image.height <= allowed:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
