"""Images in a column of a table, through the `datasets` library."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, IndexedSource

TABLE_PREFIX = "hub:"
INSTALL = "tables of images are read by the datasets library: pip install 'stellar_hub[datasets]'"


class ImageTable(IndexedSource[EncodedImage]):
    """The images of a table's column; make it with `from_hub`, `from_disk` or `from_parquet`.

    A sequence of `EncodedImage`: `len(source)`, `source[index]`. The table stays memory-mapped on the disk.

    Args:
        table: A `datasets.Dataset`.
        name: What to call it in messages.
        column: The column of images; None takes the only one there is.

    Raises:
        ValueError: if the table is empty, or the column is missing or not clear.
    """

    def __init__(self, table: Any, name: str, column: str | None = None):
        from datasets import Image

        self.column = column or only_image_column(table, name)
        if self.column not in table.column_names:
            raise ValueError(f"{name} has no column {self.column!r}; it has {', '.join(table.column_names)}")
        if not len(table):
            raise ValueError(f"no images in {name}: it has no rows")
        # Undecoded: bytes are read as they are, and decoded where all other images are.
        self.table = table.cast_column(self.column, Image(decode=False)).select_columns([self.column])
        self.name = name

    @classmethod
    def from_hub(cls, name: str, column: str | None = None) -> "ImageTable":
        """A split of a data set on the Hub, "OWNER/NAME" or "OWNER/NAME:SPLIT"; it is downloaded once."""
        repository, _, split = name.partition(":")
        return cls(datasets().load_dataset(repository, split=split or "train"), name, column)

    @classmethod
    def from_disk(cls, folder: str | os.PathLike[str], column: str | None = None) -> "ImageTable":
        """A table that `Dataset.save_to_disk` wrote.

        Raises:
            ValueError: if it is several splits at once.
        """
        if (Path(folder) / "dataset_dict.json").is_file():
            splits = sorted(path.name for path in Path(folder).iterdir() if is_saved_table(path))
            raise ValueError(f"{folder} holds the splits {', '.join(splits)}: name one, such as {folder}/{splits[0]}")
        return cls(datasets().load_from_disk(str(folder)), str(folder), column)

    @classmethod
    def from_parquet(cls, files: Sequence[str | os.PathLike[str]], column: str | None = None) -> "ImageTable":
        """Parquet files, one after the other.

        Raises:
            FileNotFoundError: if one does not exist.
        """
        for file in files:
            if not Path(file).is_file():
                raise FileNotFoundError(f"no such parquet file: {file}")
        table = datasets().load_dataset("parquet", data_files=[str(file) for file in files], split="train")
        return cls(table, str(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else ""), column)

    def __len__(self) -> int:
        return len(self.table)

    def _image(self, index: int) -> EncodedImage:
        file, data = self._row(index)
        return EncodedImage(f"{self.name}, row {index}{f' ({file})' if file else ''}", data)

    def fingerprint(self) -> str:
        """SHA-256 over every image's size and, where it has one, name: the same wherever the table lies."""
        digest = hashlib.sha256(f"table of {len(self)} {HASHED_WORD}\0".encode())
        for index in range(len(self)):
            file, data = self._row(index)
            digest.update(os.fsencode(file) + f"\0{len(data)}\0".encode())
        return digest.hexdigest()

    def _row(self, index: int) -> tuple[str, bytes]:
        """An image's file name, or "", and its bytes, or none where the cell is empty."""
        cell = self.table[index][self.column] or {}
        path, data = cell.get("path") or "", cell.get("bytes")
        if data is None and path:
            data = Path(path).read_bytes()
        return os.path.basename(path), data or b""


def only_image_column(table: Any, name: str) -> str:
    """The column of a table that holds images: declared so, or made of bytes and a path.

    Raises:
        ValueError: if there is none, or there are several.
    """
    from datasets import Image

    def holds_images(feature: Any) -> bool:
        return isinstance(feature, Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    found = [column for column, feature in table.features.items() if holds_images(feature)]
    if len(found) != 1:
        which = f"several columns of images ({', '.join(found)})" if found else "no column of images"
        raise ValueError(f"{name} has {which}; its columns: {', '.join(table.column_names)}")
    return found[0]


def is_saved_table(folder: str | os.PathLike[str]) -> bool:
    """Whether `datasets` saved a table, or several splits of one, in a folder."""
    return any((Path(folder) / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def datasets() -> Any:
    """The library, or how to get it.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import datasets as library
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return library
