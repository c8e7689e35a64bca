"""The images of the page: files that are kept for a while, and what a model makes of one."""

import threading
import weakref
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image
from torch import Tensor

from stellar_hub.app.models import Models, fitted
from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.image_loading import read_encoded
from stellar_hub.modeling.localization_maps import to_pil
from stellar_hub.modeling.safe_text import one_line

MAX_KEPT_BYTES = 2**28  # of all files together
MAX_TITLE = 80  # characters


class ImageFile:
    """An image file in memory, as long as somebody has it open.

    Attributes:
        data: Its bytes; None if they were dropped to make room for others.
    """

    def __init__(self, data: bytes):
        self.data: bytes | None = data


class ImageFiles:
    """The image files that are open, of all users. It may be used by several threads.

    It does not keep files that nobody has open any more. Of those that are open it keeps the last ones, as many as fit.

    Args:
        max_bytes: Size of all files together. One that is larger is kept until the next one comes.
    """

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES):
        self.max_bytes = max_bytes
        self._files: list[weakref.ref[ImageFile]] = []  # the one used longest ago comes first
        self._lock = threading.Lock()

    def add(self, data: bytes) -> ImageFile:
        """Keeps a file as long as its user has it open, and there is room."""
        file = ImageFile(data)
        with self._lock:
            self._put_last(file)
            kept = self._kept()
            while len(kept) > 1 and sum(map(_size_of, kept)) > self.max_bytes:
                kept.pop(0).data = None
        return file

    def read(self, file: ImageFile, title: str) -> bytes:
        """Returns the bytes of a file.

        Args:
            file: The file.
            title: Name of the image in the error.

        Raises:
            ValueError: if it was dropped because others came.
        """
        with self._lock:
            if file.data is None:
                raise ValueError(f"{title} is not kept any more: choose the image again")
            self._put_last(file)
            return file.data

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        with self._lock:
            return sum(map(_size_of, self._kept()))

    def _put_last(self, file: ImageFile) -> None:
        self._files = [weakref.ref(each) for each in (*self._kept(), file) if each is not file]
        self._files.append(weakref.ref(file))

    def _kept(self) -> list[ImageFile]:
        return [file for each in self._files if (file := each()) is not None and file.data is not None]


def _size_of(file: ImageFile) -> int:
    return len(file.data or b"")


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image and its encoding by one model. All tensors are on the CPU.

    Attributes:
        title: Name to show, on one line.
        written: The image in Python, such as `"cat.jpg"` with its quotation marks.
        file: Its file.
        pixels: What the model saw, `(3, H, W)` in [0, 1].
        seen: The same part of the image in more pixels, to draw on.
        encoding: Its encoding, a batch of one, float32.
    """

    title: str
    written: str
    file: ImageFile
    pixels: Tensor
    seen: Image.Image
    encoding: StellarEncoding


def encode_file(models: Models, kept: ImageFiles, name: str, file: ImageFile, title: str, written: str) -> Photograph:
    """Encodes a file that is kept.

    Args:
        models: The models of the page.
        kept: The files of the page.
        name: Model that encodes.
        file: The file.
        title: Name to show.
        written: The image in Python.

    Raises:
        UnreadableImageError: if it cannot be read as an image.
        ValueError: if the file is not kept any more.
    """
    data, loaded = kept.read(file, title), models.load(name)
    pixels = fitted(loaded.processor, data, title)
    seen = to_pil(fitted(loaded.sharp, data, title))
    return Photograph(title, written, file, pixels, seen, models.encode(name, pixels))


def read_upload(path: Path, kept: ImageFiles) -> tuple[ImageFile, str, str]:
    """Reads a file that a user uploaded, and keeps it; it is decoded later.

    Args:
        path: Where the file lies.
        kept: The files of the page.

    Returns:
        The file, its title and the image in Python.

    Raises:
        OSError: if the machine fails to read it.
        UnreadableImageError: if it is too large.
    """
    title = one_line(path.name, MAX_TITLE)
    data, _ = read_encoded(path, title)
    return kept.add(data), title, repr(title)


def example_names() -> tuple[str, ...]:
    """Returns the names of the photographs that come with the package."""
    return tuple(sorted(path.name for path in _examples().glob("*.jpg")))


def example_path(name: str) -> Path:
    """Returns the path of a photograph that comes with the package.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in example_names():
        raise ValueError(f"{one_line(repr(name), 100)} is no example: choose one of {', '.join(example_names())}")
    return _examples() / name


def read_example(name: str, kept: ImageFiles) -> tuple[ImageFile, str, str]:
    """Reads a photograph of the package, and keeps it; the results are those of `read_upload`.

    Raises:
        ValueError: if there is none of this name.
    """
    data, _ = read_encoded(example_path(name))
    return kept.add(data), name, f'files("stellar_hub.demo_images") / {name!r}'


def _examples() -> Path:
    return Path(str(files("stellar_hub.demo_images")))
