"""What a source of pictures is, and reading what it gives."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from stellar_hub.modeling.image_loading import UNREADABLE, decode_picture, load_rgb, pil_to_rgb


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that is no file by itself: its bytes out of an archive or a table."""

    name: str  # for messages and journals, such as "shard-000.tar/n01440764_10026.jpg"
    data: bytes

    def __str__(self) -> str:
        return self.name


Picture = str | Path | EncodedPicture
PictureT = TypeVar("PictureT", bound=Picture)


class PictureSource(Protocol):
    """A sequence of pictures, in an order of its own; a list of paths is one.

    Indices are what samples are told by: the same index is the same picture in every process and at every time. As each
    picture can be reached by its index, any shuffle, any split over workers and processes, and going on anywhere follow
    without a sample lost or doubled.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...


class IndexedSource(ABC, Generic[PictureT]):
    """What sources have in common: indices are checked, and all pictures can be gone through."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _picture(self, index: int) -> PictureT:
        """The picture of an index within the length."""

    def __getitem__(self, index: int, /) -> PictureT:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        return self._picture(index)

    def __iter__(self) -> Iterator[PictureT]:
        return (self[index] for index in range(len(self)))


class StoredSource(PictureSource, Protocol):
    """A source that can tell whether it is still the same."""

    def fingerprint(self) -> str:
        """SHA-256 of what identifies its pictures, in their order; it does not depend on where they lie."""
        ...


def open_undecoded(picture: Picture) -> Image.Image:
    """Open a picture; only its header is read.

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no picture; it is named, in the same words each time.
    """
    try:
        return Image.open(io.BytesIO(picture.data) if isinstance(picture, EncodedPicture) else picture)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        # Pillow names bytes by their address in memory: a run would count the picture anew each time.
        raise ValueError(f"{picture} cannot be read as a picture: it is of no known format") from error
    except UNREADABLE as error:
        raise ValueError(f"{picture} cannot be read as a picture: {error}") from error


def read_picture(picture: Picture) -> Tensor:
    """Read and decode a picture to RGB, `(3, H, W)`, uint8 or, where the file holds floats, float32 in [0, 1].

    Raises:
        FileNotFoundError: if it is a path to nothing.
        ValueError: if it is no readable picture; it is named.
    """
    if not isinstance(picture, EncodedPicture):
        return load_rgb(picture)
    with open_undecoded(picture) as opened:
        return pil_to_rgb(decode_picture(opened, picture.name), picture.name)
