"""Images in a column of a table, through the `datasets` library."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, IndexedSource
from stellar_hub.extras import require

TABLE_PREFIX = "hub:"


def datasets_library() -> Any:
    """Imports `datasets`.

    Raises:
        ImportError: if it is not installed. The message has the command that installs it.
    """
    return require("datasets", "datasets", "a table of images")


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
            ImportError: if `datasets` is not installed.
        """
        return datasets_library().load_dataset(self.name, split=self.split, streaming=streaming)


class ImageTable(IndexedSource[EncodedImage]):
    """The images of a table's column as a sequence of `EncodedImage`; the table stays memory-mapped on the disk.

    Make it with `from_hub`, `from_disk` or `from_parquet`.

    Args:
        table: A `datasets.Dataset`.
        name: Name of the table for messages.
        column: Column of images. None: the only one there is.

    Raises:
        ValueError: if the table is empty, the column is missing, or there are several columns of images.
    """

    def __init__(self, table: Any, name: str, column: str | None = None):
        self.table, self.column = select_image_column(table, name, column)
        if not len(table):
            raise ValueError(f"no images in {name}: it has no rows")
        self.name = name

    @classmethod
    def from_hub(cls, name: str, column: str | None = None) -> "ImageTable":
        """Opens a split of a data set on the Hub, which `datasets` downloads once. See `HubDataset.parse`."""
        return cls(HubDataset.parse(name).load(), name, column)

    @classmethod
    def from_disk(cls, folder: str | os.PathLike[str], column: str | None = None) -> "ImageTable":
        """Opens a table that `Dataset.save_to_disk` wrote.

        Raises:
            ValueError: if the folder holds several splits.
        """
        return cls(load_saved_table(folder), str(folder), column)

    @classmethod
    def from_parquet(cls, files: Sequence[str | os.PathLike[str]], column: str | None = None) -> "ImageTable":
        """Opens parquet files, one after the other, as one table.

        Raises:
            FileNotFoundError: if a file does not exist.
        """
        name = str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        return cls(load_parquet(files), name, column)

    def __len__(self) -> int:
        return len(self.table)

    def _image(self, index: int) -> EncodedImage:
        file, data = self._row(index)
        return EncodedImage(f"{self.name}, row {index}{f' ({file})' if file else ''}", data)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of every image's size and, if it has one, name, wherever the table is stored."""
        digest = hashlib.sha256(f"table of {len(self)} {HASHED_WORD}\0".encode())
        for index in range(len(self)):
            file, data = self._row(index)
            digest.update(os.fsencode(file) + f"\0{len(data)}\0".encode())
        return digest.hexdigest()

    def _row(self, index: int) -> tuple[str, bytes]:
        """Returns an image's file name, or "", and its bytes, which are empty if the cell is."""
        cell = self.table[index][self.column] or {}
        path, data = cell.get("path") or "", cell.get("bytes")
        if data is None and path:
            data = Path(path).read_bytes()
        return os.path.basename(path), data or b""


def select_image_column(table: Any, name: str, column: str | None = None) -> tuple[Any, str]:
    """Reduces a table to its column of images.

    Args:
        table: A `datasets.Dataset` or `datasets.IterableDataset`.
        name: Name of the table for messages.
        column: Column of images. None: the only one, declared as images or made of bytes and a path.

    Returns:
        The table with this column alone, undecoded, and the name of the column.

    Raises:
        ValueError: if the column is missing, or none is given and the table has no column of images or several.
    """
    image_type = datasets_library().Image
    columns = ", ".join(table.column_names)
    if column is None:
        found = [
            each
            for each, feature in table.features.items()
            if isinstance(feature, image_type) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
        ]
        if len(found) != 1:
            seen = f"several columns of images ({', '.join(found)})" if found else "no column of images"
            raise ValueError(f"{name} has {seen}; its columns are {columns}")
        column = found[0]
    elif column not in table.column_names:
        raise ValueError(f"{name} has no column {column!r}; its columns are {columns}")
    # Undecoded: `read_image` decodes the bytes, as it does for every other image.
    return table.cast_column(column, image_type(decode=False)).select_columns([column]), column


def load_saved_table(folder: str | os.PathLike[str]) -> Any:
    """Loads a table that `Dataset.save_to_disk` wrote: a `datasets.Dataset`.

    Raises:
        ValueError: if the folder holds several splits.
        ImportError: if `datasets` is not installed.
    """
    if (Path(folder) / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in Path(folder).iterdir() if is_saved_table(path))
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}; name one, such as {folder}/{splits[0]}")
    return datasets_library().load_from_disk(str(folder))


def load_parquet(files: Sequence[str | os.PathLike[str]]) -> Any:
    """Loads parquet files as one table: a `datasets.Dataset`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ImportError: if `datasets` is not installed.
    """
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"no such parquet file: {file}")
    return datasets_library().load_dataset("parquet", data_files=[str(file) for file in files], split="train")


def is_saved_table(folder: str | os.PathLike[str]) -> bool:
    """Returns whether `datasets` saved a table, or several splits of one, in a folder."""
    return any((Path(folder) / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
