"""Lists of images: text files with one path per line."""

import codecs
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stellar_hub.data.sources.files import PackedNames
from stellar_hub.data.sources.image_source import HASHED_WORD, IndexedSource, file_stamp
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import one_line

MAX_PATH_BYTES = 32_768  # no file system has longer paths
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, eq=False)
class ImageList(IndexedSource[Path]):
    """The images of a list file as a sequence of paths, in the list's order.

    `ImageList.read` makes it, or `ImageList.of_one` for one image.

    Attributes:
        folder: Folder of the list; relative paths start there.
        names: Paths as the list has them.
    """

    folder: Path
    names: PackedNames

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "ImageList":
        """Reads a list: one path per line, absolute or relative to the list's folder. Empty lines are skipped.

        The images are not opened; a missing one is noticed when it is read. A byte order mark is skipped.

        Raises:
            FileNotFoundError: if the list does not exist.
            ValueError: if it names no image, is not a text file, is too large, or a line is longer than any path.
        """
        if not Path(file).exists():
            raise FileNotFoundError(f"no such list of images: {one_line(file)}")
        path = regular_file(Path(file).absolute())
        check_limit("text_bytes", path.stat().st_size, f"the list {one_line(file)}")
        with open(path, "rb") as lines:
            names = PackedNames.pack_bytes(_lines_of(lines, one_line(file)))
        if not len(names):
            raise ValueError(f"the list {one_line(file)} names no image; write one path per line")
        return cls(path.parent, names)

    @classmethod
    def of_one(cls, image: str | os.PathLike[str]) -> "ImageList":
        """Makes a list of one image file, which is not opened."""
        path = Path(image).absolute()
        return cls(path.parent, PackedNames.pack([path.name]))

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the paths as the list has them, wherever the list and its images are stored."""
        digest = hashlib.sha256(f"list of {len(self)} {HASHED_WORD}\0".encode())
        digest.update(self.names.text + b"\0" + self.names.ends.tobytes())
        return digest.hexdigest()

    def stamp(self, index: int) -> str:
        """Returns the size and the modification time of an image's file; "" if it does not exist."""
        return file_stamp(self[index])


def _lines_of(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yields the lines of a list that are not empty, without their ends.

    Raises:
        ValueError: if it is not text, or a line is longer than any path.
    """
    number = 0
    while line := file.readline(MAX_PATH_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if b"\0" in line:
            kind = "UTF-16 text; save it as UTF-8" if line[:2] in UTF_16_MARKS else "not text; write one path per line"
            raise ValueError(f"{name} is not a list of images, because it is {kind}")
        if len(line) == MAX_PATH_BYTES and not line.endswith(b"\n"):
            raise ValueError(f"line {number} of the list {name} is longer than a path can be; write one path per line")
        line = line.rstrip(b"\n").rstrip(b"\r")
        if line.strip():
            yield line
