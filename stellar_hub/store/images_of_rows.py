"""The images of the rows of a store in a source that has them in another order, and others besides.

Rows of a store that grew are in the order in which images came; a source has them sorted. An image is known by its name
in the index.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from stellar_hub.data.sources import EncodedImage, ImageItem, ImageSource
from stellar_hub.data.sources.image_source import IndexedSource, image_name_of, stamp_of
from stellar_hub.data.sources.table import TABLE_PREFIX
from stellar_hub.features.rows import file_name, printable
from stellar_hub.progress import track

MANY_IMAGES = 10_000  # from so many on, progress is shown
GONE = -1  # in the place of an index: the source does not have the image
ROW = ", row "  # between the name of a table and the number of a row


class ImagesOfRows(IndexedSource[ImageItem]):
    """The images of some rows of a store: the index of an image is its row.

    An image that the source does not have any more cannot be read.

    Args:
        source: Source of the images, in any order.
        indices: Index in the source of the image of each row, `(num_rows,)`; -1 for an image that it does not have.
        first_row: The first of these rows.
        gone: Names of the images that the source does not have, as the index of the store has them, by row.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: Sequence[int],
        first_row: int = 0,
        gone: Mapping[int, str] | None = None,
    ):
        self.source = source
        self.indices = np.array(indices, dtype=np.int64)
        self.first_row = first_row
        self.gone = dict(gone or {})
        self.damaged = tuple(getattr(source, "damaged", ()))
        self.notes = tuple(getattr(source, "notes", ()))

    def __len__(self) -> int:
        return self.first_row + len(self.indices)

    def _image(self, index: int) -> ImageItem:
        place = self._place(index)
        if place != GONE:
            return self.source[place]
        name = file_name(self.gone[index])  # a store may name any file: it is not opened
        return EncodedImage(name, b"", f"{name} cannot be read: the source does not have it")

    def stamp(self, index: int) -> str:
        """Returns the stamp of the image of a row; "" if the source does not have it."""
        place = self._place(index)
        return "" if place == GONE else stamp_of(self.source, place)

    def image_name(self, index: int) -> str:
        """Returns the name of the image of a row."""
        place = self._place(index)
        return file_name(self.gone[index]) if place == GONE else image_name_of(self.source, place)

    def _place(self, row: int) -> int:
        if not self.first_row <= row < len(self):
            raise IndexError(f"row {row} is not among the rows {self.first_row} to {len(self) - 1}")
        return int(self.indices[row - self.first_row])

    def names(self) -> list[str]:
        """Returns the names of all images, as the index of a store has them."""
        return [printable(self.image_name(row)) for row in range(self.first_row, len(self))]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the names of the images."""
        return names_sha256(self.names())

    def lacks(self, rows: range) -> bool:
        """Whether the source does not have all images of some rows."""
        return bool((self.indices[rows.start - self.first_row : rows.stop - self.first_row] == GONE).any())


def names_sha256(names: Iterable[str]) -> str:
    """Returns the SHA-256 of names in their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


class PlacesByName:
    """Where the images of a source are, by their names. Images of one name are given one after the other.

    Args:
        source: The images.
        indices: Indices of the images to know; None takes all.

    Raises:
        TypeError: if an image has no name.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int] | None = None):
        self._first: dict[str, int] = {}
        self._more: dict[str, deque[int]] = {}  # of names that occur several times
        numbers = range(len(source)) if indices is None else indices
        for index in track(numbers, "finding new images", unit="image", enabled=len(numbers) >= MANY_IMAGES):
            name = key_of(printable(image_name_of(source, index)))
            if self._first.setdefault(name, index) != index:
                self._more.setdefault(name, deque()).append(index)

    def take(self, name: str) -> int:
        """Returns the index of the next image of a name, and forgets it; -1 if there is none."""
        index = self._first.pop(name, GONE)
        more = self._more.get(name)
        if more:
            self._first[name] = more.popleft()
        return index

    def rest(self) -> list[int]:
        """Returns the indices of all images that nobody has taken, in order."""
        return sorted([*self._first.values(), *(index for more in self._more.values() for index in more)])


def key_of(name: str, names_of_source: Sequence[str] = ()) -> str:
    """Returns what a name of an image in an index is compared by.

    That is the name itself, without parts such as `..` in the path of a file. Only the name of a row of a table is
    another one: it begins with the table's first file, as the user wrote it, and says how many files there are.

    Args:
        name: Name, as the index has it.
        names_of_source: Absolute names of the source that the image came from, for a table with a relative path.
    """
    table, separator, row = name.rpartition(ROW)
    number, space, file = row.partition(" ")
    if not separator or not number.isdecimal() or (space and not (file.startswith("(") and file.endswith(")"))):
        return os.path.normpath(name) if os.path.isabs(name) else name
    file_of_table, more, count = table.rpartition(" and ")
    if more and count.endswith(" more") and count.removesuffix(" more").isdecimal():
        table = file_of_table
    if not os.path.isabs(table):
        suffix = Path(table).suffix
        beside = [each for each in names_of_source if Path(each).suffix == suffix and not each.startswith(TABLE_PREFIX)]
        if beside:
            table = os.path.join(os.path.dirname(beside[0]), os.path.basename(table))
        elif os.path.exists(table):  # not a data set of the Hub
            table = os.path.abspath(table)
    return f"{os.path.normpath(table)}{ROW}{number}"


def find_rows(
    places: PlacesByName, source: ImageSource, names: Sequence[str], keys: Sequence[str], first_row: int
) -> ImagesOfRows:
    """Returns the images of rows, which are taken out of `places`.

    Args:
        places: Places of the images in the source.
        source: The source.
        names: Names of the images of the rows, as the index has them.
        keys: What each name is compared by.
        first_row: The first of the rows.
    """
    indices = [places.take(key) for key in keys]
    gone = {
        first_row + row: name for row, (name, index) in enumerate(zip(names, indices, strict=True)) if index == GONE
    }
    return ImagesOfRows(source, indices, first_row, gone)
