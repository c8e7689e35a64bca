"""The rows of a store on their way out: for each an id, the columns of the index and the features, in batches."""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stellar_hub.features.rows import ImageRecord, printable
from stellar_hub.modeling.safe_text import escape_control, one_line
from stellar_hub.store.files import pyarrow
from stellar_hub.store.index import index_schema, records_to_table

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore

SEARCHED = ("S", "pooled", "cls")  # features that searches compare
DTYPES = {"float32": torch.float32, "float16": torch.float16}
ID, SOURCE, LABEL, DIGEST = "id", "source", "label", "digest"
_NAMESPACE = uuid.UUID("6f0b1c5e-6d5a-5c8e-9f43-2b7a4c9d1e60")  # never to be changed: all ids follow from it
_NUM_DIGITS = 32  # of a digest
_LEFT_OUT = ("status", "error")  # columns of the index: rows with an error do not leave
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # of a feature: it becomes a column, a vector or a file


@dataclass(frozen=True)
class ExportReport:
    """What an export has done.

    Attributes:
        target: Where the rows went, such as "the collection photos".
        written: Number of rows that this run has written.
        unchanged: Number of rows that were there already, with the same content.
        left_out: Number of rows with an error, which have no features.
    """

    target: str
    written: int
    unchanged: int
    left_out: int

    def __str__(self) -> str:
        there = f", {self.unchanged:,} were there already" if self.unchanged else ""
        errors = f", {self.left_out:,} with an error left out" if self.left_out else ""
        return escape_control(f"{self.target}: {self.written:,} rows written{there}{errors}")


@dataclass(frozen=True)
class Export:
    """What leaves a store, and in which form.

    Attributes:
        store: The store.
        outputs: Names of the features.
        dtype: Type of the features outside, "float32" or "float16".
        source: Name of the store outside: the column "source", and a part of each id.
    """

    store: "FeatureStore"
    outputs: tuple[str, ...]
    dtype: str
    source: str

    @property
    def row_size(self) -> int:
        """Number of values in the features of one row."""
        return sum(int(np.prod(self.store.shape(name))) for name in self.outputs)

    def report(self, target: object, is_there: bool = False) -> ExportReport:
        """Returns the report of a run that has written all rows, or has found all of them."""
        num_ok = int(self.store.ok.sum())
        written, unchanged = (0, num_ok) if is_there else (num_ok, 0)
        return ExportReport(str(target), written, unchanged, len(self.store) - num_ok)

    def batches(self, batch_size: int) -> Iterator["OutgoingRows"]:
        """Yields all rows of the store in order, in batches; those of a batch that have an error are left out.

        Raises:
            ValueError: if a value does not fit float16, or a shard of the store is missing or damaged.
        """
        for batch in self.store.batches(batch_size, self.outputs):
            ok = batch.ok
            records = [record for record in batch.records if record.error is None]
            features = {name: self._values(name, batch[name][ok]) for name in self.outputs}
            yield OutgoingRows(self._columns(records, features), features, len(batch))

    def _values(self, name: str, tensor: Tensor) -> np.ndarray:
        values = tensor.to(DTYPES[self.dtype])
        if (tensor.isfinite() & ~values.isfinite()).any():
            raise ValueError(f"{name} of {self.store.path} has values that do not fit {self.dtype}: pass float32")
        return values.numpy()

    def _columns(self, records: Sequence[ImageRecord], features: dict[str, np.ndarray]) -> Any:
        """Returns the table of rows: the id, where they come from, the columns of the index, and a digest of it all."""
        table = records_to_table(records).drop_columns(list(_LEFT_OUT))
        ids = [self.id_of(record) for record in records]
        table = table.add_column(0, ID, _texts(ids)).add_column(1, SOURCE, _texts([self.source] * len(ids)))
        table = table.append_column(LABEL, _texts([record.label for record in records]))
        lines = enumerate(table.to_pylist())
        digests = [_digest(line, [part[place] for part in features.values()]) for place, line in lines]
        return table.append_column(DIGEST, _texts(digests))

    def id_of(self, record: ImageRecord) -> str:
        """Returns the id of a row, a UUID: the same for the same row, image, model and preprocessing on each go."""
        manifest = self.store.manifest
        parts = [manifest.model["weights_sha256"], manifest.preprocessing["id"], self.source, record.row, record.image]
        return str(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


@dataclass(frozen=True)
class OutgoingRows:
    """Some rows of a store that have features.

    Attributes:
        table: Their columns without features, a `pyarrow.Table`.
        features: Arrays `(N, ...)` by name.
        num_read: Number of rows of the store that these are the good ones of.
    """

    table: Any
    features: dict[str, np.ndarray]
    num_read: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def ids(self) -> list[str]:
        """The id of each row."""
        return list(self.table[ID].to_pylist())

    def unlike(self, known: dict[str, str]) -> "OutgoingRows":
        """Returns the rows whose digest is not the one that is known of their id."""
        pairs = zip(self.ids, self.table[DIGEST].to_pylist(), strict=True)
        places = [place for place, (row_id, digest) in enumerate(pairs) if known.get(row_id) != digest]
        if len(places) == len(self):
            return self
        features = {name: values[places] for name, values in self.features.items()}
        return OutgoingRows(self.table.take(pyarrow().array(places, "int64")), features, len(places))

    def to_table(self) -> Any:
        """Returns a `pyarrow.Table` of all columns, the features as lists of fixed size."""
        table = self.table
        for name, values in self.features.items():
            table = table.append_column(name, as_lists(values))
        return table


def plan_export(
    store: "FeatureStore", outputs: Sequence[str] | None, dtype: str, source: str | None, to_search: bool
) -> Export:
    """Checks what is asked for, before anything is opened.

    Args:
        store: The store.
        outputs: Names of features, or one name. None takes those of `SEARCHED` that the store holds if they are to be
            searched, and else all.
        dtype: "float32" or "float16".
        source: Name of the store outside; None takes the name of its folder.
        to_search: Whether the features go into a database that compares them: single numbers are then refused.

    Raises:
        KeyError: if the store does not hold a feature.
        ValueError: if there is nothing to export, or a value is not allowed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {one_line(repr(dtype), 40)}")
    names = tuple(dict.fromkeys(store.known_outputs(outputs)))
    if to_search:
        names = names if outputs is not None else tuple(name for name in SEARCHED if name in names)
        for name in names:
            if len(store.shape(name)) not in (1, 2):
                raise ValueError(f"{one_line(name)} has the shape {store.shape(name)}, and not (d,) or (r, d)")
    for name in names:
        if not _NAME.fullmatch(name) or name in columns_schema().names:
            raise ValueError(f"a feature cannot have the name {one_line(repr(name))} outside of a store")
    if not names:
        raise ValueError(f"name the features in outputs: {store.path} holds {', '.join(store.outputs)}")
    if not store.ok.any():
        raise ValueError(f"{store.path} has nothing to export: all {len(store):,} rows have an error")
    return Export(store, names, dtype, printable(source or store.path.resolve().name or "store"))


def columns_schema() -> Any:
    """Returns the columns beside the features, and their types."""
    pa = pyarrow()
    of_index = [field for field in index_schema() if field.name not in _LEFT_OUT]
    text = pa.string()
    return pa.schema(
        [(ID, text), (SOURCE, text), *((each.name, each.type) for each in of_index), (LABEL, text), (DIGEST, text)]
    )


def as_lists(values: np.ndarray) -> Any:
    """Returns an array `(N, ...)` as a pyarrow array of N lists of fixed size, one inside the other."""
    pa = pyarrow()
    lists = pa.array(values.reshape(-1))
    for length in reversed(values.shape[1:]):
        lists = pa.FixedSizeListArray.from_arrays(lists, length)
    return lists


def _texts(values: Sequence[str]) -> Any:
    pa = pyarrow()
    return pa.array(values, pa.string())


def _digest(line: dict[str, Any], features: Sequence[np.ndarray]) -> str:
    """Returns what tells the content of a row from any other content of it."""
    digest = hashlib.sha256(json.dumps(line, sort_keys=True).encode())
    for values in features:
        digest.update(values.tobytes())
    return digest.hexdigest()[:_NUM_DIGITS]
