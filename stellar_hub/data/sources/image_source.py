"""What a source of images is, and how the images that it returns are read."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from stellar_hub.modeling.image_loading import NOT_THE_IMAGES_FAULT, is_passing_fault, load_rgb, own_name, read_encoded
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import escape_control, one_line
from stellar_hub.old_names import old_names

# The word for images that fingerprints hash. It stays as it was: checkpoints and stores hold fingerprints.
HASHED_WORD = old_names("fingerprints")["images"]


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an encoded image, read from an archive or a table.

    Attributes:
        name: Name for messages and logs, such as "shard-000.tar/n01440764_10026.jpg".
        data: Bytes of the image file.
        error: Why there are no bytes; empty if there are. Reading such an image raises a ValueError that says so.
    """

    name: str
    data: bytes
    error: str = ""

    def __str__(self) -> str:
        return self.name


ImageItem = str | Path | EncodedImage  # an image that is not decoded yet
ImageItemT = TypeVar("ImageItemT", bound=ImageItem)


class ImageSource(Protocol):
    """A sequence of images in a fixed order. A list of paths is one.

    The same index is the same image in every process and at every time. Every image can be reached by its index, so
    any shuffle, any split over workers and processes, and a restart anywhere lose no sample and repeat none.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageItem: ...


class StoredSource(ImageSource, Protocol):
    """A source that can tell whether it has changed.

    A source may also have `notes`, sentences on what was passed over, and `damaged`, the files that could not be read
    to their end.
    """

    def fingerprint(self) -> str:
        """Returns the SHA-256 of what identifies the images in their order, wherever they are stored."""
        ...

    def stamp(self, index: int) -> str:
        """Returns a short text that changes when the file that holds an image changes; "" where that is unknown."""
        ...


class IndexedSource(ABC, Generic[ImageItemT]):
    """A base class of sources: it checks indices and iterates over all images.

    Attributes:
        notes: What was passed over and why, such as "7 files are not images by their suffix (.xyz)".
        damaged: Parts that could not be read to their end, each as "path: reason".
    """

    notes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def stamp(self, index: int) -> str:
        """Returns a short text that changes when the file that holds an image changes; "" where that is unknown."""
        return ""

    def image_name(self, index: int) -> str:
        """Returns the path of an image, or its name in an archive or a table; the image is not read."""
        return str(self[index])

    def class_root(self, index: int) -> str:
        """Returns the folder that the folder of an image's class lies in; "" where no such folder is known."""
        return ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _image(self, index: int) -> ImageItemT:
        """Returns the image of an index that is in range."""

    def __getitem__(self, index: int, /) -> ImageItemT:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for a source of {len(self)} images")
        return self._image(index)

    def __iter__(self) -> Iterator[ImageItemT]:
        return (self[index] for index in range(len(self)))


def file_stamp(path: str | os.PathLike[str]) -> str:
    """Returns the stamp of a file: its size in bytes and the time of its last change; "" if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def stamp_of(source: ImageSource, index: int) -> str:
    """Returns the stamp of an image of any source; that of a path in a list is `file_stamp`."""
    if hasattr(source, "stamp"):
        return str(source.stamp(index))
    image = source[index]
    return file_stamp(image) if isinstance(image, str | os.PathLike) else ""


def image_name_of(source: ImageSource, index: int) -> str:
    """Returns the name of an image of any source; that of a path in a list is the path.

    Raises:
        TypeError: if the image has no name, such as an array.
    """
    if hasattr(source, "image_name"):
        return str(source.image_name(index))
    image = source[index]
    if isinstance(image, str | os.PathLike | EncodedImage):
        return str(image)
    raise TypeError(f"image {index} of the source has no name, it is {type(image).__name__}: name files of images")


def class_root_of(source: ImageSource, index: int) -> str:
    """Returns the folder that the folder of an image's class lies in; "" where no such folder is known."""
    return str(source.class_root(index)) if hasattr(source, "class_root") else ""


def encoded_and_name(image: ImageItem) -> tuple[str | Path | bytes, str]:
    """Returns what `load_rgb` takes for an image of a source, a path or bytes, and the name for errors.

    A PIL image, an array or a tensor in a list of images stays what it is.

    Raises:
        OSError: as in `check_file`.
        ValueError: as in `check_file`.
    """
    if isinstance(image, Image.Image | np.ndarray | Tensor):
        return image, own_name(image) or "the image"  # type: ignore[return-value]  # `load_rgb` takes it
    check_file(image)
    return (image.data, image.name) if isinstance(image, EncodedImage) else (image, str(image))


def check_file(image: ImageItem) -> None:
    """Raises an error if an image cannot be read because of its file: nothing is decoded.

    Raises:
        OSError: if the path does not exist or cannot be looked at.
        ValueError: if the path is a pipe, a device, a socket or a folder, the file is larger than the limit, or a row
            of a table has no image. The message names it.
    """
    name = one_line(image)
    if isinstance(image, EncodedImage):
        if image.error:
            raise ValueError(
                image.error if name in image.error else f"{name} cannot be read as an image: {image.error}"
            )
        size = len(image.data)
    else:
        try:
            size = regular_file(image).stat().st_size
        except FileNotFoundError:
            if isinstance(image, str):
                read_encoded(image)  # its error says whether this is an address
            raise FileNotFoundError(f"no such image file: {name}") from None
    check_limit("image_bytes", size, name)


def read_image(image: ImageItem) -> Tensor:
    """Reads and decodes an image to RGB.

    Returns:
        `(3, H, W)` uint8, or float32 in [0, 1] if the file holds floats.

    Raises:
        FileNotFoundError: if the path does not exist.
        OSError: if the machine fails to read the file.
        UnreadableImageError: if it cannot be read as an image. The message names it and is the same at every try.
    """
    return load_rgb(*encoded_and_name(image))


def image_digest(image: ImageItem) -> str:
    """Returns the SHA-256 of an image's bytes as they are stored, in hexadecimal.

    Raises:
        OSError: if the path cannot be read.
        ValueError: as in `check_file`.
    """
    check_file(image)
    data = image.data if isinstance(image, EncodedImage) else Path(image).read_bytes()
    return hashlib.sha256(data).hexdigest()


def skipped_entry(image: object, error: Exception) -> str:
    """Returns "path: error" on one line for an image that cannot be read, naming the path once."""
    path = escape_control(str(image))
    reason = one_line(str(error).removeprefix(path).strip(" :")) or type(error).__name__
    return f"{path}: {NOT_THE_IMAGES_FAULT if is_passing_fault(error) else ''}{reason}"
