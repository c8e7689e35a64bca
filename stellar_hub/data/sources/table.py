"""Images in a column of a table, through the `datasets` library."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants

from stellar_hub.data.sources.files import known_size
from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, ImageItem, IndexedSource, file_stamp
from stellar_hub.data.sources.table_files import (
    TablePart,
    check_parquet,
    check_saved_table,
    datasets_library,
    load_parquet,
    reading_table,
)
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import is_below, regular_file
from stellar_hub.modeling.safe_text import escape_control, one_line

TABLE_PREFIX = "hub:"
BINARY_TYPES = ("binary", "large_binary", "binary_view")
_NO_BYTES = (
    "its cell in the table has a path and no bytes; a table may name files only below a folder that you name: root= in "
    "Python, --root on the command line, data.root in a recipe"
)


class HubDataset(NamedTuple):
    """The name of a data set on the Hub and of one of its splits.

    Attributes:
        name: Repository, such as "uoft-cs/cifar10".
        split: Split, such as "train" or "train[:1000]".
    """

    name: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "HubDataset":
        """Parses "OWNER/NAME" or "OWNER/NAME:SPLIT", with or without "hub:" before it. The default split is "train".

        Raises:
            ValueError: if the name or the split is empty.
        """
        name, colon, split = text.removeprefix(TABLE_PREFIX).partition(":")
        if not name or (colon and not split):
            raise ValueError(
                f"{text!r} does not name a data set of the Hub; write {TABLE_PREFIX}OWNER/NAME or "
                f"{TABLE_PREFIX}OWNER/NAME:SPLIT"
            )
        return cls(name, split or "train")

    def load(self, streaming: bool = False) -> Any:
        """Loads the split: a `datasets.Dataset`, or a `datasets.IterableDataset` if it is streamed.

        Raises:
            OSError: if the Hub cannot be reached, or does not have it.
            ValueError: if it cannot be read.
            ImportError: if `datasets` is not installed.
        """
        with reading_table(f"{TABLE_PREFIX}{self.name}"):
            try:
                return datasets_library().load_dataset(self.name, split=self.split, streaming=streaming)
            except ConnectionError as error:
                raise ConnectionError(
                    f"{one_line(error)}: check the name and the network, and HF_ENDPOINT and HF_HUB_OFFLINE if "
                    f"they are set. A data set that was loaded before is read from {one_line(self.cache_folder())}"
                ) from error

    def cache_folder(self) -> str:
        """Returns the folder in which the Hub client keeps the files of this data set."""
        return os.path.join(constants.HF_HUB_CACHE, f"datasets--{self.name.replace('/', '--')}")


class ImageTable(IndexedSource[ImageItem]):
    """The images of a table's column as a sequence of `EncodedImage`; the table stays memory-mapped on the disk.

    Make it with `from_hub`, `from_disk` or `from_parquet`. A cell that has a path and no bytes gives that path if it
    leads to a regular file below a root, and otherwise an image that cannot be read.

    Args:
        table: A `datasets.Dataset`.
        name: Name of the table for messages.
        column: Column of images. None: the only one there is.
        roots: Folders below which cells may name files. Relative paths start at the first.
        parts: Numbers of rows and stamps of the files of the table, in their order. Empty: not known.

    Raises:
        ValueError: if the table is empty or damaged, the column is missing, or there are several columns of images.
    """

    def __init__(
        self,
        table: Any,
        name: str,
        column: str | None = None,
        roots: Sequence[str | os.PathLike[str]] = (),
        parts: Sequence[TablePart] = (),
    ):
        table, self.column = select_image_column(table, name, column)
        if not len(table):
            raise ValueError(f"no images in {one_line(name)}: it has no rows")
        with reading_table(name):  # offsets that lead out of the file would read other memory
            table.data.column(self.column).validate(full=True)
        self.table = table.with_format("arrow")  # its cells are not copied until they are asked for
        self.name = name
        self.roots = tuple(os.path.abspath(root) for root in roots)
        self.parts = tuple(parts)
        self._ends = list(accumulate(part.num_rows for part in self.parts))

    @classmethod
    def from_hub(cls, name: str, column: str | None = None, root: str | os.PathLike[str] | None = None) -> "ImageTable":
        """Opens a split of a data set on the Hub, which `datasets` downloads once. See `HubDataset.parse`."""
        dataset = HubDataset.parse(name)
        return cls(dataset.load(), name, column, [*given(root), dataset.cache_folder()])

    @classmethod
    def from_disk(
        cls,
        folder: str | os.PathLike[str],
        column: str | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> "ImageTable":
        """Opens a table that `Dataset.save_to_disk` wrote.

        Raises:
            ValueError: if the folder holds several splits, is damaged, or names files of other folders.
        """
        table = load_saved_table(folder)
        return cls(table, str(folder), column, given(root), [TablePart(len(table), check_saved_table(folder))])

    @classmethod
    def from_parquet(
        cls,
        files: Sequence[str | os.PathLike[str]],
        column: str | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> "ImageTable":
        """Opens parquet files, one after the other, as one table.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if a file is damaged, or declares more than there can be in it.
        """
        name = str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        parts = [check_parquet(file) for file in files]
        return cls(load_parquet(files, parts), name, column, given(root), parts)

    def __len__(self) -> int:
        return len(self.table)

    def _image(self, index: int) -> ImageItem:
        path, data = self._cell(index)
        name = self._name(index, path)
        if data is not None:
            return image_of_cell(name, data)
        return file_of_cell(name, path, self.roots)

    def image_name(self, index: int) -> str:
        """Returns the path of the file of a row, or the name of the table with the row; no image is copied."""
        path, data = self._cell(index)
        if data is None and path:
            return str(self[index])
        return self._name(index, path)

    def _name(self, index: int, path: str) -> str:
        file = escape_control(os.path.basename(path))
        return f"{self.name}, row {index}{f' ({file})' if file else ''}"

    def fingerprint(self) -> str:
        """Returns the SHA-256 of every image's size and, if it has one, name, wherever the table is stored.

        The size of an image that is a file and does not exist is "?".
        """
        digest = hashlib.sha256(f"table of {len(self)} {HASHED_WORD}\0".encode())
        for index in range(len(self)):
            path, data = self._cell(index)
            size = str(len(data)) if data is not None else self._size_of_file(path) if path else "0"
            digest.update(os.fsencode(os.path.basename(path)) + f"\0{size}\0".encode())
        return digest.hexdigest()

    def _size_of_file(self, path: str) -> str:
        image = file_of_cell("", path, self.roots)
        return known_size(image) if isinstance(image, Path) else "?"

    def stamp(self, index: int) -> str:
        """Returns size and modification time of the file of a row, and the row; for the Hub, its own fingerprint."""
        path, data = self._cell(index)
        if data is None and path:
            image = self[index]
            return file_stamp(image) if isinstance(image, Path) else ""
        if not self.parts:
            return f"{getattr(self.table, '_fingerprint', '')} {index}"
        number = bisect_right(self._ends, index)
        return f"{self.parts[number].stamp} {index - (self._ends[number - 1] if number else 0)}"

    def _cell(self, index: int) -> tuple[str, Any]:
        """Returns the path in a cell, or "", and its bytes as a buffer that is not copied, or None."""
        cell = self.table[index][self.column][0]
        if not cell.is_valid:
            return "", None
        if not hasattr(cell, "keys"):  # plain bytes
            return "", cell.as_buffer()
        keys = set(cell)
        path = cell["path"].as_py() if "path" in keys else None
        data = cell["bytes"]
        has_bytes = data.is_valid and hasattr(data, "as_buffer")
        return path if isinstance(path, str) else "", data.as_buffer() if has_bytes else None


def image_of_cell(name: str, data: Any) -> EncodedImage:
    """Returns the image of a cell's bytes. Bytes beyond the limit of an image are not copied."""
    try:
        check_limit("image_bytes", len(data), "it")
    except ValueError as error:
        return EncodedImage(name, b"", str(error))
    return EncodedImage(name, data if isinstance(data, bytes) else data.to_pybytes(), "" if data else "it is empty")


def file_of_cell(name: str, path: str, roots: Sequence[str]) -> Path | EncodedImage:
    """Returns the path that a cell without bytes names if it leads below a root, or an image that cannot be read.

    Args:
        name: Name of the row for messages.
        path: Path in the cell, or "".
        roots: Folders below which cells may name files. A relative path starts at the first.
    """
    if not path:
        return EncodedImage(name, b"", "its cell in the table is empty")
    joined = os.path.join(roots[0], path) if roots else path
    if "\0" in path or not any(is_below(os.path.realpath(joined), os.path.realpath(root)) for root in roots):
        return EncodedImage(name, b"", f"{_NO_BYTES}. The path is {one_line(path)}")
    try:
        return regular_file(os.path.realpath(joined))
    except FileNotFoundError:
        return EncodedImage(name, b"", f"no such file: {one_line(joined)}")
    except ValueError as error:
        return EncodedImage(name, b"", str(error))
    except OSError:
        return Path(joined)  # reading it raises the same error


def given(root: str | os.PathLike[str] | None) -> list[str | os.PathLike[str]]:
    """Returns a list of a root, or an empty one without it."""
    return [] if root is None else [root]


def select_image_column(table: Any, name: str, column: str | None = None) -> tuple[Any, str]:
    """Reduces a table to its column of images.

    Args:
        table: A `datasets.Dataset` or `datasets.IterableDataset`.
        name: Name of the table for messages.
        column: Column of images. None: the only one that is declared as images or made of bytes and a path, or else
            the only one of plain bytes.

    Returns:
        The table with this column alone, undecoded, and the name of the column.

    Raises:
        ValueError: if the column is missing, or none is given and the table has no column of images or several.
    """
    image_type = datasets_library().Image
    columns = one_line(", ".join(table.column_names))
    if column is None:
        found = [each for each, feature in table.features.items() if _is_image(feature, image_type)]
        found = found or [
            each for each, feature in table.features.items() if getattr(feature, "dtype", None) in BINARY_TYPES
        ]
        if len(found) != 1:
            seen = f"several columns of images ({', '.join(found)})" if found else "no column of images"
            raise ValueError(f"{one_line(name)} has {one_line(seen)}; its columns are {columns}")
        column = found[0]
    elif column not in table.column_names:
        raise ValueError(f"{one_line(name)} has no column {one_line(repr(column))}; its columns are {columns}")
    if isinstance(table.features[column], image_type):
        # Undecoded: `read_image` decodes the bytes, as it does for every other image.
        with reading_table(name):
            table = table.cast_column(column, image_type(decode=False))
    return table.select_columns([column]), column


def _is_image(feature: Any, image_type: type) -> bool:
    """Returns whether a column is declared as images, or has bytes and perhaps a path."""
    return isinstance(feature, image_type) or (
        isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}
    )


def load_saved_table(folder: str | os.PathLike[str]) -> Any:
    """Loads a table that `Dataset.save_to_disk` wrote: a `datasets.Dataset`.

    Raises:
        ValueError: if the folder holds several splits, is damaged, or names files of other folders.
        ImportError: if `datasets` is not installed.
    """
    if (Path(folder) / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in Path(folder).iterdir() if is_saved_table(path))
        if not splits:
            raise ValueError(f"{folder} has no split that `datasets` saved")
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}; name one, such as {folder}/{splits[0]}")
    with reading_table(folder):
        check_saved_table(folder)
        return datasets_library().load_from_disk(str(folder))


def is_saved_table(folder: str | os.PathLike[str]) -> bool:
    """Returns whether `datasets` saved a table, or several splits of one, in a folder."""
    return any((Path(folder) / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
