"""What a stream of images is, and the two kinds: tar files, through fsspec (http, s3, hf, ...), and tables."""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import fsspec

from stellar_hub.data.sources.image_source import EncodedImage
from stellar_hub.data.sources.table import HubDataset, file_of_cell, given, image_of_cell, select_image_column
from stellar_hub.data.sources.table_files import BATCH_ROWS, check_parquet, datasets_library, reading_table
from stellar_hub.data.sources.tar_shards import is_image
from stellar_hub.modeling.safe_paths import read_bounded
from stellar_hub.modeling.safe_text import one_line

# Errors of tarfile that mean damage, although it stops silently at them. `EOFHeaderError` is its true end.
_DAMAGED_HEADERS = ("InvalidHeaderError", "TruncatedHeaderError", "EmptyHeaderError")
_UNREADABLE = (tarfile.TarError, EOFError, OSError)


class DamagedShardError(ValueError):
    """The rest of a shard cannot be read. The images before that place remain valid."""


class ImageStream(Protocol):
    """Shards of images, each read from its beginning on. The number of images is not known in advance."""

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards for messages. A shard's number is its index here."""
        ...

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard, in the same order each time.

        Raises:
            DamagedShardError: where the shard cannot be read any further. The message names it.
            OSError: if the shard cannot be reached.
        """
        ...

    def fingerprint(self) -> str:
        """Returns the SHA-256 of what identifies the shards. Their content is not read."""
        ...


class TarStream:
    """The images of tar files, compressed or not, as an `ImageStream`.

    Args:
        paths: Paths or addresses, such as "shard-000.tar", "https://host/shard-000.tar.gz" or
            "hf://datasets/owner/name/shard-000.tar".

    Attributes:
        shards: Paths as given, a shard each.

    Raises:
        ValueError: if no path is given, or one is given twice.
    """

    def __init__(self, paths: Sequence[str]):
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        doubled = [path for path, times in Counter(paths).items() if times > 1]
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled)}")
        self.shards = tuple(paths)

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard and skips its other members; see `ImageStream.read`."""
        path = self.shards[shard]
        name = path.rpartition("/")[2]
        with fsspec.open(path, "rb") as file:
            try:
                for member, archive in _regular_members(file):
                    if is_image(member.name):
                        content: Any = archive.extractfile(member)
                        yield EncodedImage(f"{name}/{member.name}", content.read())
            except _UNREADABLE as error:
                raise DamagedShardError(f"{path}: {error or type(error).__name__}") from error

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the files' names without their folders."""
        return _fingerprint("tar files", [path.rpartition("/")[2] for path in self.shards])


class TableStream:
    """The images of a table's column as an `ImageStream`; rows are read without a download of the table.

    Make it with `from_hub` or `from_parquet`.

    Args:
        table: A `datasets.IterableDataset`. Its shards are the stream's.
        name: Name of the table for messages.
        column: Column of images. None: the only one there is.
        root: Folder below which cells may name files. None: cells without bytes cannot be read.

    Attributes:
        shards: Names of the shards.

    Raises:
        ValueError: if the column is missing, or there are several columns of images.
    """

    def __init__(self, table: Any, name: str, column: str | None = None, root: str | os.PathLike[str] | None = None):
        with reading_table(name):
            if table.features is None:  # some formats know their columns after the first row only
                table = table._resolve_features()
        self.table, self.column = select_image_column(table, name, column)
        self.roots = tuple(os.path.abspath(each) for each in given(root))
        self.shards = tuple(f"{name}, part {number}" for number in range(self.table.num_shards))

    @classmethod
    def from_hub(
        cls, name: str, column: str | None = None, root: str | os.PathLike[str] | None = None
    ) -> "TableStream":
        """Opens a split of a data set on the Hub. See `HubDataset.parse`."""
        return cls(HubDataset.parse(name).load(streaming=True), name, column, root)

    @classmethod
    def from_parquet(
        cls, files: Sequence[str], column: str | None = None, root: str | os.PathLike[str] | None = None
    ) -> "TableStream":
        """Opens parquet files, a shard each: paths, or addresses that `datasets` reads.

        Raises:
            FileNotFoundError: if a file of this machine does not exist.
            ValueError: if one is damaged, or declares more than there can be in it.
        """
        for file in files:
            if "://" not in file:
                check_parquet(file)
        name = Path(files[0]).name
        with reading_table(name):
            table = datasets_library().load_dataset(
                "parquet", data_files=list(files), split="train", streaming=True, batch_size=BATCH_ROWS
            )
        return cls(table, name, column, root)

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard, row by row; see `ImageStream.read`."""
        name = self.shards[shard]
        rows = iter(self.table.shard(num_shards=len(self.shards), index=shard))
        number = 0
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # pyarrow, fsspec and datasets raise different ones
                raise DamagedShardError(f"{name}, row {number}: {one_line(error)}") from error
            if row is None:
                return
            yield self._image(f"{name}, row {number}", row[self.column])
            number += 1

    def _image(self, name: str, cell: Any) -> EncodedImage:
        """Returns the image of a cell: its bytes, or those of the file that it names, if that is below the root."""
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            return image_of_cell(name, data)
        path = cell.get("path") if isinstance(cell, dict) else None
        image = file_of_cell(name, path if isinstance(path, str) else "", self.roots)
        if isinstance(image, EncodedImage):
            return image
        try:
            return image_of_cell(name, read_bounded(image, "image_bytes", self.roots[0]))
        except (OSError, ValueError) as error:
            return EncodedImage(name, b"", str(error))

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the table's name and its number of shards."""
        return _fingerprint("a table", self.shards)


def _fingerprint(kind: str, names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([f"stream of {kind}", *names]).encode(errors="surrogateescape")).hexdigest()


def _regular_members(file: Any) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yields the files in a tar one after the other. Each must be read before the next one is taken.

    Raises:
        tarfile.TarError: if the file is not a tar, or is damaged.
    """
    headers = _HeaderErrors()
    # Without `ignore_zeros`, because an archive's end is its end. tarfile takes a damaged header for the end as well.
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=headers.tarinfo_class(), errors="surrogateescape") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
            if member.isreg():
                yield member, archive
    if type(headers.last).__name__ in _DAMAGED_HEADERS:
        raise tarfile.ReadError(f"it has no proper end: {headers.last}")


class _HeaderErrors:
    """A record of the last error at which tarfile saw the end of an archive; tarfile itself does not tell.

    Attributes:
        last: The error, or None.
    """

    def __init__(self) -> None:
        self.last: Exception | None = None

    def tarinfo_class(self) -> type[tarfile.TarInfo]:
        """Returns a `TarInfo` class that records its errors here."""
        record = self

        class RecordingTarInfo(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
                try:
                    return super().frombuf(buf, encoding, errors)
                except tarfile.HeaderError as error:
                    record.last = error
                    raise

        return RecordingTarInfo
