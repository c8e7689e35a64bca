"""Reading images of every common kind as RGB tensors: paths, bytes, files, PIL images, arrays, tensors.

This file is the boundary to the decoders: whatever they raise becomes `UnreadableImageError`, which names the image. A
file is read completely before it is decoded, so that what the machine does wrong is never taken for the image's fault,
and no decoder can ask for more bytes than the file has.
"""

import contextlib
import errno
import importlib
import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import IO

import numpy as np
from PIL import Image
from torch import Tensor

from .image_metadata import SIDEWAYS_ORIENTATIONS, orientation_of, turn_upright, without_metadata
from .image_pixels import array_to_rgb, pil_to_rgb
from .limits import check_limit, max_allowed
from .safe_text import escape_control, mask_secrets, one_line

ImageInput = str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor

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
_UNSAFE_FORMATS = ("EPS", "WMF", "PSD", "FPX", "BUFR", "GRIB", "HDF5")
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
_OBJECT = re.compile(r"<_io\.\w+ object at 0x[0-9a-f]+>")  # an address in memory, different at every try
_URL = re.compile(r"(?!file:)[a-zA-Z][a-zA-Z0-9+.-]*://|data:[a-z]+/")

# With these errors the next images would fail as well.
_FULL_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# With these errors a disk, a network or rights are at fault, and the next try may succeed.
_PASSING = {
    getattr(errno, name, None)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "ENOTCONN", "ESHUTDOWN", "EPIPE", "EREMOTEIO", "ENOLINK"),
        *(
            "EPROTO",
            "EACCES",
            "EPERM",
            "EAGAIN",
            "EBUSY",
            "EINTR",
            "ENODEV",
            "ENXIO",
            "ENOLCK",
            "EDQUOT",
            "EKEYEXPIRED",
        ),
    )
} - {None}

HUGE_PIXELS = 2**26  # images beyond are decoded at a reduced scale where the target is small

NOT_THE_IMAGES_FAULT = "not the image's fault: "  # errors of rows begin so where another try may succeed


class UnreadableImageError(ValueError):
    """An image cannot be read: it is damaged, cut short, too large, or of a format that is not read."""


def is_fault_of_machine(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the machine is full and nothing about the image."""
    while error is not None and not isinstance(error, UnreadableImageError):
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FULL_MACHINE):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def is_passing_fault(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, comes from a disk, a network or rights: try again later."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False


def load_rgb(source: ImageInput, name: str | None = None) -> Tensor:
    """Reads any image as RGB, `(3, H, W)`, uint8 or, if the source holds floats, float32 in [0, 1].

    EXIF orientation is applied. Grey, palette and CMYK images become RGB. Alpha is composited on white. 16 bits are
    scaled to 8.

    Args:
        source: A path, bytes or an open file of an image, a PIL image, an array `(H, W)` or `(H, W, C)`, or a tensor
            `(H, W)` or `(C, H, W)`. `C` is 1, 2 (grey and alpha), 3 or 4; if only the other order of dimensions fits,
            that order is used.
        name: Name of the image in errors; None takes the path.

    Raises:
        FileNotFoundError: if the path does not exist.
        OSError: if the machine fails to read the file.
        TypeError: if the source is of another type, or holds values of another type.
        UnreadableImageError: if it cannot be read as an image. The message names it.
        ValueError: if the source is an address, or shape or values of an array do not fit.
    """
    if isinstance(source, np.ndarray | Tensor):
        return array_to_rgb(source, name or "the image")
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "") or "the image")
        return _rgb_of_image(source, name, from_file=False)
    return decode_rgb(*read_encoded(source, name))


def decode_rgb(data: bytes, name: str, reduction: Callable[[int, int], int] | None = None) -> Tensor:
    """Decodes the bytes of an image file to RGB, `(3, H, W)`; see `load_rgb`.

    Args:
        data: Bytes of the file.
        name: Name of the image in errors.
        reduction: Function from the upright image's height and width to how many times smaller it may be decoded: 1,
            2, 4 or 8. JPEGs are then decoded at that scale, and other images of more than `HUGE_PIXELS` are averaged.
            None decodes the full size.

    Raises:
        UnreadableImageError: if it cannot be read as an image. The message names it.
    """
    first: Exception | None = None
    for bare, exif in _with_and_without_metadata(data):
        try:
            with open_encoded(bare, name) as image:
                if exif is not None:
                    image.info["exif"] = exif
                factor = 1 if reduction is None else reduction(*upright_size(image))
                if factor > 1 and image.format == "JPEG":
                    image.draft(None, (image.width // factor, image.height // factor))
                    factor = 1
                return _rgb_of_image(image, name, factor if image.width * image.height > HUGE_PIXELS else 1)
        except UnreadableImageError as error:
            first = first or error
    assert first is not None
    raise first


def _with_and_without_metadata(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yields a file as it is, then without its metadata, then also without its colour profile; with the EXIF block."""
    yield data, None
    for keep_profile in (True, False):
        bare = without_metadata(data, keep_profile)
        if bare is not None and bare[0] != data:
            yield bare


def _rgb_of_image(image: Image.Image, name: str, factor: int = 1, from_file: bool = True) -> Tensor:
    """Decodes an image that may only have been opened; whatever its decoder raises becomes `UnreadableImageError`."""
    if image.format in _UNSAFE_FORMATS and getattr(image, "tile", None):
        raise unreadable(name, f"the format {image.format} is not read")
    check_pixels(image, name)
    size = image.size
    try:
        image.load()
        return turn_upright(pil_to_rgb(image, name, factor), orientation_of(image, from_file))
    except Exception as error:
        raise _translated(error, name, size) from (None if isinstance(error, MemoryError) else error)


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
    raise _translated(first, name, (0, 0)) from (None if isinstance(first, MemoryError) else first)


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


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the height and width that an image, opened with `open_encoded`, has after EXIF orientation is applied."""
    sideways = orientation_of(image) in SIDEWAYS_ORIENTATIONS
    return (image.width, image.height) if sideways else (image.height, image.width)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns an image file's height and width after EXIF orientation is applied; only the header is read.

    Raises:
        FileNotFoundError: if the path does not exist.
        UnreadableImageError: if it cannot be read as an image.
    """
    with _opened(path, os.fsdecode(path)) as file, open_encoded(file, os.fsdecode(path)) as image:
        return upright_size(image)


def read_encoded(source: str | os.PathLike | bytes | IO[bytes], name: str | None = None) -> tuple[bytes, str]:
    """Reads the bytes of an image file, without decoding it.

    Args:
        source: Path, bytes, or an open file.
        name: Name of the image in errors; None takes the path.

    Returns:
        The bytes and the name.

    Raises:
        FileNotFoundError: if the path does not exist.
        OSError: if the machine fails to read the file. The message names it.
        TypeError: if the source is of another type.
        UnreadableImageError: if it is not a regular file, or too large.
        ValueError: if the source is an address.
    """
    if isinstance(source, str) and _URL.match(source):
        address = one_line(mask_secrets(source), 100)
        raise ValueError(f"{address} is an address, and images are not downloaded: download it, and pass the file")
    if isinstance(source, str | os.PathLike):
        name = name or os.fsdecode(source)
        with _opened(source, name) as file:
            return file.read(os.fstat(file.fileno()).st_size), name
    name = name or str(getattr(source, "name", "") or "the image")
    if hasattr(source, "read"):
        source = source.read(max_allowed("image_bytes") + 1)
    if not isinstance(source, bytes | bytearray | memoryview):
        kind = type(source).__name__
        raise TypeError(f"an image must be a path, bytes, a file, a PIL image, an array or a tensor, got {kind}")
    _check_bytes(len(source), name)
    return bytes(source), name


@contextlib.contextmanager
def _opened(path: str | os.PathLike, name: str) -> Iterator[IO[bytes]]:
    """Opens a regular file; the errors of the machine name it."""
    shown = escape_control(name)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(f"no such image file: {shown} (it is a folder)")
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            raise unreadable(name, "it is not a regular file")
        with open(path, "rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, name)
            yield file
    except UnreadableImageError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        if error.errno in _NO_SUCH_FILE:
            raise FileNotFoundError(f"no such image file: {shown}") from error
        raise OSError(error.errno, error.strerror, shown) from error
    except ValueError as error:
        if "null" not in str(error):  # a zero byte in the name
            raise
        raise FileNotFoundError(f"no such image file: {shown}") from error


def _check_bytes(size: int, name: str) -> None:
    try:
        check_limit("image_bytes", size, "it")
    except ValueError as error:
        raise unreadable(name, error) from None


def unreadable(name: str, reason: object) -> UnreadableImageError:
    """Returns the error of an image that cannot be read, on one printable line that names it."""
    return UnreadableImageError(f"{escape_control(name)} cannot be read as an image: {one_line(reason)}")


def _translated(error: Exception, name: str, size: tuple[int, int]) -> Exception:
    """Returns the error to raise for what a decoder raised: its own only if the machine has no memory."""
    if isinstance(error, UnreadableImageError):
        return error
    if is_fault_of_machine(error) and not _memory_is_there(size):
        return error
    reason = _OBJECT.sub("the file", str(error).strip()) or type(error).__name__
    if not isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError):
        reason = f"its decoder failed ({type(error).__name__}: {reason})"
    return unreadable(name, reason)


def _memory_is_there(size: tuple[int, int]) -> bool:
    """Whether there is memory for an image. If so, a decoder that ran out of it was misled by the file."""
    try:
        np.empty(16 * max(size[0] * size[1], 2**20), dtype=np.uint8)
    except MemoryError:
        return False
    return True
