"""Reading images of every common kind as RGB tensors: paths, bytes, files, PIL images, arrays, tensors.

This file is the boundary to the decoders: whatever they raise becomes `UnreadableImageError`, which names the image. A
file is read completely before it is decoded, so that what the machine does wrong is never taken for the image's fault,
and no decoder can ask for more bytes than the file has.
"""

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from PIL import Image
from torch import Tensor

from .color_profiles import srgb_transform
from .image_errors import (
    NOT_THE_IMAGES_FAULT,
    UnreadableImageError,
    is_fault_of_machine,
    is_passing_fault,
    translated,
    unreadable,
)
from .image_formats import (
    ALLOWED_FORMATS,
    IMAGE_SUFFIXES,
    UNSAFE_FORMATS,
    check_bytes,
    check_pixels,
    open_encoded,
    without_size_warning,
)
from .image_metadata import SIDEWAYS_ORIENTATIONS, orientation_of, turn_upright, without_metadata
from .image_pixels import array_to_rgb, pil_to_rgb
from .limits import max_allowed
from .safe_text import escape_control, mask_secrets, one_line

logger = logging.getLogger(__name__)

ImageInput = str | os.PathLike | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor
Reduction = Callable[[int, int], int]  # from the upright height and width to how many times smaller is enough

HUGE_PIXELS = 2**26  # images beyond are decoded at a reduced scale where the target is small

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:[a-z]+/")
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_PAGED_FORMATS = ("TIFF", "GIF", "WEBP", "AVIF", "PNG")
_said: set[str] = set()  # formats of which it was said that the first page is read


def load_rgb(source: ImageInput, name: str | None = None, apply_icc_profile: bool = True) -> Tensor:
    """Reads any image as RGB, `(3, H, W)`, uint8 or, if the source holds floats, float32 in [0, 1].

    EXIF orientation is applied, and colours become sRGB. Grey, palette and CMYK images become RGB. Alpha is composited
    on white. 16 bits are scaled to 8. Of several pages or frames the first is read.

    Args:
        source: A path, bytes or an open file of an image, a PIL image, an array `(H, W)` or `(H, W, C)`, or a tensor
            `(H, W)` or `(C, H, W)`. `C` is 1, 2 (grey and alpha), 3 or 4; if only the other order of dimensions fits,
            that order is used.
        name: Name of the image in errors; None takes the path.
        apply_icc_profile: Whether a colour profile in the file is applied.

    Raises:
        FileNotFoundError: if the path does not exist.
        OSError: if the machine fails to read the file.
        TypeError: if the source is of another type, or holds values of another type.
        UnreadableImageError: if it cannot be read as an image. The message names it.
        ValueError: if the source is an address, or shape or values of an array do not fit.
    """
    return load_reduced(source, None, name, apply_icc_profile)[0]


def load_reduced(
    source: ImageInput, reduction: Reduction | None, name: str | None = None, apply_icc_profile: bool = True
) -> tuple[Tensor, tuple[int, int]]:
    """Reads any image as `load_rgb` does, at a smaller size where that is enough.

    Args:
        source: The image.
        reduction: Function that is called once with the upright height and width, and returns how many times smaller a
            file may be decoded: 1, 2, 4 or 8. JPEGs are then decoded at that scale; other images are averaged, if they
            have more than `HUGE_PIXELS`. None decodes the full size.
        name: Name of the image in errors; None takes the path.
        apply_icc_profile: Whether a colour profile in the file is applied.

    Returns:
        `(3, h, w)`, and the height and width before it was made smaller.
    """
    plan = _called_once(reduction)
    if isinstance(source, np.ndarray | Tensor | Image.Image):
        name = name or own_name(source) or "the image"
        if isinstance(source, Image.Image):
            pixels = _rgb_of_image(source, name, apply_icc_profile, from_file=False)
        else:
            pixels = array_to_rgb(source, name)
        size = (pixels.shape[1], pixels.shape[2])
        plan(*size)
        return pixels, size
    data, name = read_encoded(source, name)
    first: Exception | None = None
    for bare, exif in _with_and_without_metadata(data):
        try:
            return _decode(bare, exif, name, plan, apply_icc_profile)
        except UnreadableImageError as error:
            first = first or error
    assert first is not None
    raise first


def _decode(
    data: bytes, exif: bytes | None, name: str, plan: Reduction, apply_icc_profile: bool
) -> tuple[Tensor, tuple[int, int]]:
    with open_encoded(data, name) as image:
        if exif is not None:
            image.info["exif"] = exif
        if image.format == "JPEG":
            size = upright_size(image)
            factor = plan(*size)
            if factor > 1:
                image.draft(None, (image.width // factor, image.height // factor))
            return _rgb_of_image(image, name, apply_icc_profile), size
        _load(image, name)  # before the orientation is asked for, which may follow the pixels
        size = upright_size(image)
        factor = plan(*size) if image.width * image.height > HUGE_PIXELS else min(1, plan(*size))
        pixels = _rgb_of_image(image, name, apply_icc_profile, factor)
        _say_first_page(image, name)
        return pixels, size


def _called_once(reduction: Reduction | None) -> Reduction:
    """Returns a function that keeps its first result: it is asked again when a file is decoded once more."""
    factors: list[int] = []

    def factor(height: int, width: int) -> int:
        if not factors:
            factors.append(1 if reduction is None else reduction(height, width))
        return factors[0]

    return factor


def _with_and_without_metadata(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yields a file as it is, then without its metadata, then also without its colour profile; with the EXIF block."""
    yield data, None
    for keep_profile in (True, False):
        bare = without_metadata(data, keep_profile)
        if bare is not None and bare[0] != data:
            yield bare


def _rgb_of_image(
    image: Image.Image, name: str, apply_icc_profile: bool, factor: int = 1, from_file: bool = True
) -> Tensor:
    """Decodes an image that may only have been opened, and converts it."""
    _load(image, name)
    try:
        transform = srgb_transform(image) if apply_icc_profile else None
        return turn_upright(pil_to_rgb(image, name, factor, transform), orientation_of(image, from_file))
    except Exception as error:
        raise translated(error, name, image.size) from (None if isinstance(error, MemoryError) else error)


def _load(image: Image.Image, name: str) -> None:
    """Decodes an image, if it is not; whatever its decoder raises becomes `UnreadableImageError`."""
    if image.format in UNSAFE_FORMATS and getattr(image, "tile", None):
        raise unreadable(name, f"the format {image.format} is not read")
    check_pixels(image, name)
    size = image.size
    try:
        with without_size_warning(image):
            _narrow_transparency(image)
            image.load()
    except Exception as error:
        raise translated(error, name, size) from (None if isinstance(error, MemoryError) else error)


def _narrow_transparency(image: Image.Image) -> None:
    """Scales the transparent colour of a PNG to 8 bits where Pillow scales its pixels: from 16, 4 or 2 bits."""
    color = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    kind = tiles[0][3] if tiles and image.format == "PNG" else None
    if isinstance(color, tuple) and kind == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and kind in ("L;2", "L;4"):
        image.info["transparency"] = color * (85 if kind == "L;2" else 17)


def _say_first_page(image: Image.Image, name: str) -> None:
    """Warns, once in a process for each format, that an image has more pages than the one that is read."""
    with contextlib.suppress(Exception):  # the pages that follow may be damaged
        if image.format in _PAGED_FORMATS and image.format not in _said and getattr(image, "is_animated", False):
            _said.add(image.format)
            logger.warning(
                f"{escape_control(name)} has several pages or frames: the first is read, as of every {image.format}"
            )


def own_name(source: object) -> str | None:
    """Returns the path of an image or of an open file; None for what has none."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) and name else None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the height and width that an image, opened with `open_encoded`, has after EXIF orientation is applied."""
    sideways = orientation_of(image) in SIDEWAYS_ORIENTATIONS
    return (image.width, image.height) if sideways else (image.height, image.width)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns an image file's height and width after EXIF orientation is applied; mostly from its header alone.

    Raises:
        FileNotFoundError: if the path does not exist.
        UnreadableImageError: if it cannot be read as an image.
    """
    name = os.fsdecode(path)
    with _opened(path, name) as file, open_encoded(file, name) as image:
        if image.format == "PNG" and "exif" not in image.info:
            _load(image, name)  # it may follow the pixels
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
        TypeError: if the source is of another type, or a file that is open as text.
        UnreadableImageError: if it is not a regular file, or too large.
        ValueError: if the source is an address.
    """
    if isinstance(source, str) and _URL.match(source):
        address = one_line(mask_secrets(source), 100)
        raise ValueError(f"{address} is an address, and images are not downloaded: download it, and pass the file")
    if isinstance(source, str | os.PathLike):
        name = name or own_name(source) or ""
        with _opened(source, name) as file:
            return file.read(os.fstat(file.fileno()).st_size), name
    name = name or own_name(source) or "the image"
    if hasattr(source, "read"):
        if isinstance(source.read(0), str):
            raise TypeError(f"{escape_control(name)} is open as text: open it with open(path, 'rb')")
        source = source.read(max_allowed("image_bytes") + 1)
    if not isinstance(source, bytes | bytearray | memoryview):
        kind = type(source).__name__
        raise TypeError(f"an image must be a path, bytes, a file, a PIL image, an array or a tensor, got {kind}")
    check_bytes(len(source), name)
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
            check_bytes(os.fstat(file.fileno()).st_size, name)
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


__all__ = [
    "ALLOWED_FORMATS",
    "HUGE_PIXELS",
    "IMAGE_SUFFIXES",
    "NOT_THE_IMAGES_FAULT",
    "ImageInput",
    "UnreadableImageError",
    "is_fault_of_machine",
    "is_passing_fault",
    "load_reduced",
    "load_rgb",
    "own_name",
    "read_encoded",
    "read_size",
    "upright_size",
]
