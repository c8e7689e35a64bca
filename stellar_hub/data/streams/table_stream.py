"""Tables read row by row through the `datasets` library, without being downloaded first."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.sources.table import datasets, only_image_column
from stellar_hub.data.streams.image_stream import DamagedShardError, fingerprint_of_names


class TableStream:
    """The images of a table's column.

    Args:
        table: A `datasets.IterableDataset`; its shards are those of the stream.
        name: What to call it in messages.
        column: The column of images; None takes the only one there is.

    Attributes:
        shards: A name for each.

    Raises:
        ValueError: if the column is missing or not clear.
    """

    def __init__(self, table: Any, name: str, column: str | None = None):
        from datasets import Image

        if table.features is None:  # known after the first row only, as for some formats
            table = table._resolve_features()
        self.column = column or only_image_column(table, name)
        if self.column not in table.column_names:
            raise ValueError(f"{name} has no column {self.column!r}; it has {', '.join(table.column_names)}")
        # Undecoded: bytes are read as they are, and decoded where all other images are.
        self.table = table.cast_column(self.column, Image(decode=False)).select_columns([self.column])
        self.shards = tuple(f"{name}, part {number}" for number in range(self.table.num_shards))

    @classmethod
    def from_hub(cls, name: str, column: str | None = None) -> "TableStream":
        """A split of a data set on the Hub, "OWNER/NAME" or "OWNER/NAME:SPLIT"."""
        repository, _, split = name.partition(":")
        return cls(datasets().load_dataset(repository, split=split or "train", streaming=True), name, column)

    @classmethod
    def from_parquet(cls, files: Sequence[str], column: str | None = None) -> "TableStream":
        """Parquet files, each of them a shard; paths, or addresses that `datasets` reads."""
        table = datasets().load_dataset("parquet", data_files=list(files), split="train", streaming=True)
        return cls(table, Path(files[0]).name, column)

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """See `ImageStream`."""
        name = self.shards[shard]
        rows = iter(self.table.shard(num_shards=len(self.shards), index=shard))
        number = 0
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # pyarrow, fsspec and datasets each have their own
                raise DamagedShardError(f"{name}, row {number}: {error}") from error
            if row is None:
                return
            cell = row[self.column] or {}
            yield EncodedImage(f"{name}, row {number}", cell.get("bytes") or b"")
            number += 1

    def fingerprint(self) -> str:
        """SHA-256 over the name and the number of shards."""
        return fingerprint_of_names("a table", self.shards)
