"""What a source of images is, and how the images that it returns are read."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stellar_hub.modeling.image_loading import UNREADABLE, decode_image, load_rgb, pil_to_rgb
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import old_names

# The word for images that fingerprints hash. It stays as it was: checkpoints and stores hold fingerprints.
HASHED_WORD = old_names("fingerprints")["images"]


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an encoded image, read from an archive or a table.

    Attributes:
        name: Name for messages and logs, such as "shard-000.tar/n01440764_10026.jpg".
        data: Bytes of the image file.
        error: Why there are no bytes; None if there are. Reading such an image raises a ValueError that says so.
    """

    name: str
    data: bytes
    error: str | None = None

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
        """Returns a short text that changes when the file of an image changes; "" where that is not known."""
        ...


class IndexedSource(ABC, Generic[ImageItemT]):
    """A base class of sources: it checks indices and iterates over all images."""

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


def open_undecoded(image: ImageItem) -> Image.Image:
    """Opens an image and reads its header only.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it cannot be read as an image. The message names the image and is the same at every try.
    """
    check_file(image)
    try:
        return Image.open(io.BytesIO(image.data) if isinstance(image, EncodedImage) else image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        # Pillow names bytes by their address in memory: a run would count the same image as a new one at every try.
        raise ValueError(f"{image} cannot be read as an image: it is of no known format") from error
    except UNREADABLE as error:
        raise ValueError(f"{image} cannot be read as an image: {error}") from error


def check_file(image: ImageItem) -> None:
    """Raises an error if an image cannot be read because of its file: nothing is decoded.

    Raises:
        OSError: if the path does not exist or cannot be looked at.
        ValueError: if the path is a pipe, a device, a socket or a folder, the file is larger than the limit, or a row
            of a table has no image. The message names it.
    """
    name = one_line(image)
    if isinstance(image, EncodedImage):
        if image.error is not None:
            raise ValueError(f"{name} cannot be read as an image: {image.error}")
        size = len(image.data)
    else:
        try:
            size = regular_file(image).stat().st_size
        except FileNotFoundError:
            raise FileNotFoundError(f"no such image file: {name}") from None
    check_limit("image_bytes", size, name)


def read_image(image: ImageItem) -> Tensor:
    """Reads and decodes an image to RGB.

    Returns:
        `(3, H, W)` uint8, or float32 in [0, 1] if the file holds floats.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if it cannot be read as an image. The message names it.
    """
    if not isinstance(image, EncodedImage):
        check_file(image)
        return load_rgb(image)
    with open_undecoded(image) as opened:
        return pil_to_rgb(decode_image(opened, image.name), image.name)


def image_digest(image: ImageItem) -> str:
    """Returns the SHA-256 of an image's bytes as they are stored, in hexadecimal.

    Raises:
        OSError: if the path cannot be read.
        ValueError: as in `check_file`.
    """
    check_file(image)
    data = image.data if isinstance(image, EncodedImage) else Path(image).read_bytes()
    return hashlib.sha256(data).hexdigest()


def skipped_entry(image: ImageItem, error: Exception) -> str:
    """Returns "path: error" for an image that cannot be read, naming the path once."""
    path = str(image)
    return f"{path}: {str(error).removeprefix(path).strip(' :')}"
