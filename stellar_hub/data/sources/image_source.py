"""What a source of images is, and reading what it gives."""

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
from stellar_hub.old_names import old_names

# The word for images that fingerprints hash. It stays as it was: checkpoints and stores hold fingerprints.
HASHED_WORD = old_names("fingerprints")["images"]


@dataclass(frozen=True)
class EncodedImage:
    """An image that is no file by itself: its bytes out of an archive or a table."""

    name: str  # for messages and journals, such as "shard-000.tar/n01440764_10026.jpg"
    data: bytes

    def __str__(self) -> str:
        return self.name


ImageItem = str | Path | EncodedImage
ImageItemT = TypeVar("ImageT", bound=ImageItem)


class ImageSource(Protocol):
    """A sequence of images, in an order of its own; a list of paths is one.

    Indices are what samples are told by: the same index is the same image in every process and at every time. As each
    image can be reached by its index, any shuffle, any split over workers and processes, and going on anywhere follow
    without a sample lost or doubled.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageItem: ...


class IndexedSource(ABC, Generic[ImageItemT]):
    """What sources have in common: indices are checked, and all images can be gone through."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _image(self, index: int) -> ImageItemT:
        """The image of an index within the length."""

    def __getitem__(self, index: int, /) -> ImageItemT:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._image(index)

    def __iter__(self) -> Iterator[ImageItemT]:
        return (self[index] for index in range(len(self)))


class StoredSource(ImageSource, Protocol):
    """A source that can tell whether it is still the same."""

    def fingerprint(self) -> str:
        """SHA-256 of what identifies its images, in their order; it does not depend on where they lie."""
        ...


def open_undecoded(image: ImageItem) -> Image.Image:
    """Open an image; only its header is read.

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no image; it is named, in the same words each time.
    """
    try:
        return Image.open(io.BytesIO(image.data) if isinstance(image, EncodedImage) else image)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        # Pillow names bytes by their address in memory: a run would count the image anew each time.
        raise ValueError(f"{image} cannot be read as an image: it is of no known format") from error
    except UNREADABLE as error:
        raise ValueError(f"{image} cannot be read as an image: {error}") from error


def read_image(image: ImageItem) -> Tensor:
    """Read and decode an image to RGB, `(3, H, W)`, uint8 or, where the file holds floats, float32 in [0, 1].

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no readable image; it is named.
    """
    if not isinstance(image, EncodedImage):
        return load_rgb(image)
    with open_undecoded(image) as opened:
        return pil_to_rgb(decode_image(opened, image.name), image.name)


def image_digest(image: ImageItem) -> str:
    """SHA-256 of an image's bytes as they are stored, in hexadecimal.

    Raises:
        OSError: if it is a path that cannot be read.
    """
    data = image.data if isinstance(image, EncodedImage) else Path(image).read_bytes()
    return hashlib.sha256(data).hexdigest()
