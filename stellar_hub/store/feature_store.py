"""A feature store, opened for reading."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.features.names import in_table_order
from stellar_hub.features.rows import FeatureBatch, FeatureRow, ImageRecord
from stellar_hub.store.files import check_shard, open_index, open_shard, table_to_records
from stellar_hub.store.manifest import INDEX, Manifest, incompatibilities, shard_path
from stellar_hub.store.tensor_format import SCALE, from_stored

if TYPE_CHECKING:
    from stellar_hub.data.sources import ImageSource
    from stellar_hub.modeling import StellarModel

MAX_OPEN = 32  # shards; each is an open file


class FeatureStore:
    """The features that `stellar-hub extract` wrote: `len(store)`, `store[7]`, `store[10:20]`, iteration over rows.

    Row `i` is always image `i` of the source. Features are memory-mapped and have the dtype of the store; features of
    quantized stores are float32. Rows with an error are NaN.

    Args:
        path: Folder of the store.

    Attributes:
        path: Folder of the store.
        manifest: Description of what made the store.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if the manifest or the index is damaged, or the store is not complete.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        if self.manifest.counts is None:
            raise ValueError(f"{path} is not complete: run the same extract command again to resume it")
        try:
            self._index = open_index(self.path / INDEX, len(self))
        except ValueError as error:
            raise ValueError(f"{error}; {self._remedy}") from error
        self._shards: OrderedDict[int, Any] = OrderedDict()
        self._records: tuple[int, list[ImageRecord]] = (-1, [])

    @property
    def _remedy(self) -> str:
        return "run the same extract command with --repair to extract only the damaged rows again"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __len__(self) -> int:
        return self.manifest.num_rows

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the features in the store, in the order of the table of features."""
        return in_table_order(self.manifest.features["shapes"])

    @overload
    def __getitem__(self, rows: int) -> FeatureRow: ...
    @overload
    def __getitem__(self, rows: slice) -> FeatureBatch: ...
    def __getitem__(self, rows: int | slice) -> FeatureRow | FeatureBatch:
        if isinstance(rows, slice):
            chosen = range(len(self))[rows]
            return FeatureBatch(self.records(chosen), {name: self.read(name, chosen) for name in self.outputs})
        if not -len(self) <= rows < len(self):
            raise IndexError(f"row {rows} of {len(self)}")
        batch = self[rows % len(self) : rows % len(self) + 1]
        return FeatureRow(batch.records[0], {name: tensor[0] for name, tensor in batch.features.items()})

    def __iter__(self) -> Iterator[FeatureRow]:
        for batch in self.batches():
            for index, record in enumerate(batch.records):
                yield FeatureRow(record, {name: tensor[index] for name, tensor in batch.features.items()})

    def shape(self, output: str) -> tuple[int, ...]:
        """Returns the shape of a feature for one row.

        Raises:
            KeyError: if the store does not hold the feature.
        """
        if output not in self.outputs:
            raise KeyError(
                f"{self.path} does not hold {output!r}, only {', '.join(self.outputs)}: extract it with --outputs"
            )
        return tuple(self.manifest.features["shapes"][output])

    def batches(self, batch_size: int = 256, outputs: Sequence[str] | None = None) -> Iterator[FeatureBatch]:
        """Yields all rows in order.

        Args:
            batch_size: Number of rows per batch; a batch never reaches into the next shard.
            outputs: Names of the features to read; None takes all.
        """
        for number in range(self.manifest.num_shards):
            rows = self.manifest.rows_of_shard(number)
            for start in range(rows.start, rows.stop, batch_size):
                part = range(start, min(start + batch_size, rows.stop))
                yield FeatureBatch(
                    self.records(part), {name: self.read(name, part) for name in outputs or self.outputs}
                )

    def read(self, output: str, rows: Sequence[int] | Tensor) -> Tensor:
        """Returns one feature of some rows, `(len(rows), ...)`; a range inside a shard is not copied.

        Raises:
            KeyError: if the store does not hold the feature.
            IndexError: if a row does not exist.
            ValueError: if a shard is missing or damaged; the message names its rows.
        """
        self.shape(output)
        if isinstance(rows, range) and rows.step == 1:
            parts = [self._read_part(output, *place) for place in self._places(rows)]
        else:
            parts = [self.read(output, range(int(row), int(row) + 1)) for row in rows]
        if parts:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.read(output, range(1))[:0]

    def records(self, rows: Sequence[int]) -> list[ImageRecord]:
        """Returns the records of some rows' images.

        Raises:
            IndexError: if a row does not exist.
        """
        found = []
        for row in rows:
            number, place = self._place(row)
            if self._records[0] != number:
                self._records = (number, table_to_records(self._index.read_row_group(number)))
            found.append(self._records[1][place])
        return found

    @cached_property
    def ok(self) -> Tensor:
        """Which rows have features, `(len(store),)` bool."""
        status = self._index.read(columns=["status"])["status"].to_pylist()
        return torch.tensor([value == "ok" for value in status], dtype=torch.bool)

    def decode(self, row: int, model: "StellarModel | None" = None) -> Image.Image:
        """Decodes the image of a row from its `S` and `L`.

        Args:
            row: Number of the row.
            model: Model that made the store; None loads it by the name in the manifest.

        Raises:
            ValueError: if the row has an error, the store lacks `S` or `L`, or another model made the store.
        """
        from stellar_hub.store.conversions import decode_rows, load_model_of

        record = self[row].record
        if record.error is not None:
            raise ValueError(f"row {record.row} has no features to decode: {record.error}")
        model = load_model_of(self.manifest) if model is None else model
        return decode_rows(self, [record.row], model)[0]

    def source(self) -> "ImageSource":
        """Opens the images that the store was made from.

        Raises:
            OSError: if they do not exist any more.
            ValueError: if they have changed, or the manifest has no name for their source.
        """
        from stellar_hub.data.sources import open_sources

        if not self.manifest.source["names"]:
            raise ValueError(f"{self.path} has no name for its source of images: open the source yourself")
        source = open_sources(self.manifest.source["names"])
        if source.fingerprint() != self.manifest.source["fingerprint"]:
            raise ValueError(f"the images of {self.path} have changed: {self.manifest.source['names']}")
        return source

    def compatible(self, other: "FeatureStore") -> bool:
        """Whether the features of two stores can be compared: they have the same weights and preprocessing."""
        return not incompatibilities(self.manifest, other.manifest)

    def check_compatible(self, other: "FeatureStore") -> None:
        """Raises ValueError, which names the differences, unless the features of two stores can be compared."""
        lines = incompatibilities(self.manifest, other.manifest)
        if lines:
            raise ValueError(f"{self.path} and {other.path} cannot be mixed; they differ in " + "; ".join(lines))

    def verify(self) -> list[str]:
        """Reads the whole store; returns one line for each shard that is missing or not what was written."""
        damaged = []
        for number in range(self.manifest.num_shards):
            try:
                check_shard(shard_path(self.path, number), self.manifest.rows_of_shard(number), self.manifest.plan)
            except ValueError as error:
                damaged.append(str(error))
        return damaged

    def to_torch(self, outputs: Sequence[str] | None = None, with_errors: bool = False) -> Any:
        """Returns a `torch.utils.data.Dataset` of dictionaries: features by name, and "row".

        Args:
            outputs: Names of the features; None takes all.
            with_errors: Whether to include rows with an error, as NaN.
        """
        from stellar_hub.store.conversions import StoreDataset

        return StoreDataset(self, outputs, with_errors)

    def to_datasets(self, outputs: Sequence[str] | None = None, with_errors: bool = False) -> Any:
        """Returns a `datasets.Dataset` with the columns of the index and one column for each feature.

        Args:
            outputs: Names of the features; None takes all.
            with_errors: Whether to include rows with an error, as NaN.
        """
        from stellar_hub.store.conversions import to_datasets

        return to_datasets(self, outputs, with_errors)

    def to_faiss(self, output: str = "pooled", factory: str = "Flat") -> Any:
        """Raises AttributeError: this is now `stellar_hub.retrieval.build_index(store, output, factory)`."""
        raise AttributeError(
            f"to_faiss is now a function: stellar_hub.retrieval.build_index(store, {output!r}, {factory!r})"
        )

    def _place(self, row: int) -> tuple[int, int]:
        """Returns the shard of a row, and the place of the row in it."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return divmod(row, self.manifest.shard_rows)

    def _places(self, rows: range) -> Iterator[tuple[int, int, int]]:
        """Yields the shard, the first and the last place of each part of a range of rows."""
        row = rows.start
        while row < rows.stop:
            number, first = self._place(row)
            last = min(first + rows.stop - row, len(self.manifest.rows_of_shard(number)))
            if last == first:
                raise IndexError(f"row {rows.stop - 1} of {len(self)}")
            yield number, first, last
            row += last - first

    def _read_part(self, output: str, number: int, first: int, last: int) -> Tensor:
        shard = self.open_shard(number)
        quantized = f"{output}{SCALE}" in shard.keys()  # noqa: SIM118  # it is not a mapping
        scale = shard.get_slice(f"{output}{SCALE}")[first:last] if quantized else None
        return from_stored(shard.get_slice(output)[first:last], scale)

    def open_shard(self, number: int) -> Any:
        """Returns a shard as `safetensors.safe_open` gives it; some shards stay open.

        Raises:
            ValueError: if it is missing or damaged; the message names its rows.
        """
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        try:
            opened = open_shard(shard_path(self.path, number), self.manifest.rows_of_shard(number), self.manifest.plan)
        except ValueError as error:
            raise ValueError(f"{error}; {self._remedy}") from error
        self._shards[number] = opened
        if len(self._shards) > MAX_OPEN:
            self._shards.popitem(last=False)
        return opened
