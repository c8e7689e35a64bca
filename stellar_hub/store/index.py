"""The index of a store: a parquet file with one line for each row, made from the records of all shards.

Its row groups are the shards. It keeps a SHA-256 of the records of each shard, because the checksums of parquet cover
the pages and not what lies between them.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stellar_hub.features.rows import ImageRecord, roots_of
from stellar_hub.modeling.image_errors import NOT_THE_IMAGES_FAULT
from stellar_hub.modeling.safe_paths import regular_file, utf8_name
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import old_names
from stellar_hub.store.files import pyarrow, records_to_json
from stellar_hub.store.manifest import Manifest, spell_rows, write_whole

_DIGESTS = b"stellar_hub"  # key in the metadata of the parquet file
_IMAGE = "image"
_IMAGE_ON_DISK = old_names("store_format_1")[_IMAGE]  # format 1 keeps the name it began with
_BOX = ("crop_top", "crop_left", "crop_bottom", "crop_right")


def index_schema(image: str = _IMAGE) -> Any:
    """Returns the columns and types of the index.

    Args:
        image: Name of the column with the images' names.
    """
    pa = pyarrow()
    numbers = {name: pa.int32() for name in ("original_height", "original_width")}
    box = {name: pa.float64() for name in _BOX}
    texts = {"status": pa.string(), "error": pa.string()}
    return pa.schema({"row": pa.int64(), image: pa.string(), **numbers, **box, **texts})


def records_to_table(records: Sequence[ImageRecord], image: str = _IMAGE) -> Any:
    """Returns records as a pyarrow table.

    Args:
        records: The records.
        image: Name of the column with the images' names.
    """
    unknown_size, unknown_box = (None, None), (None, None, None, None)
    lines = [
        (
            record.row,
            record.image,
            *(record.original_size or unknown_size),
            *(record.crop_box or unknown_box),
            record.status,
            record.error,
        )
        for record in records
    ]
    schema = index_schema(image)
    columns = [list(column) for column in zip(*lines, strict=True)] or [[]] * len(schema)
    arrays = [_column(values, type_) for values, type_ in zip(columns, schema.types, strict=True)]
    return pyarrow().Table.from_arrays(arrays, schema=schema)


def _column(values: Sequence[Any], type_: Any) -> Any:
    """Returns values, None among them, as a pyarrow array; `pyarrow.array` would import pandas for it."""
    pa = pyarrow()
    known = np.array([value is not None for value in values], dtype=bool)
    valid = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    if type_ != pa.string():
        numbers = np.array([value or 0 for value in values], dtype=type_.to_pandas_dtype())
        return pa.Array.from_buffers(type_, len(values), [valid, pa.py_buffer(numbers)])
    texts = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.Array.from_buffers(type_, len(values), [valid, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def table_to_records(table: Any, roots: tuple[str, ...] = ()) -> list[ImageRecord]:
    """Returns the records in a pyarrow table that has the columns of the index.

    Args:
        table: The table.
        roots: Folders that hold class folders, as `roots_of` writes them.
    """
    records = []
    for line in table.rename_columns(index_schema().names).to_pylist():
        seen = line["original_height"] is not None
        size = (line["original_height"], line["original_width"]) if seen else None
        box = tuple(line[name] for name in _BOX) if seen else None
        records.append(ImageRecord(line["row"], line["image"], size, box, line["error"], roots))
    return records


def write_index(
    path: Path, shards: Iterable[Sequence[ImageRecord]], contents: Sequence[str] | None = None
) -> tuple[int, int]:
    """Writes the index, with one row group for each shard.

    Args:
        path: File of the index.
        shards: Records of each shard, in the order of rows.
        contents: SHA-256 of the content of each shard, which ties the shards to the index; None ties none.

    Returns:
        The number of rows that are ok, and the number of rows with an error.

    Raises:
        OSError: if it cannot be written.
    """
    pa = pyarrow()
    buffer, digests, ok = io.BytesIO(), [], hashlib.sha256()
    schema = index_schema(_IMAGE_ON_DISK)
    num_ok = num_errors = 0
    with pa.parquet.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for records in shards:
            table = records_to_table(records, _IMAGE_ON_DISK)
            writer.write_table(table, row_group_size=len(records))
            is_ok = [record.error is None for record in records]
            ok.update(bytes(is_ok))
            digests.append(_digest(table_to_records(table)))  # as they are read later
            num_ok, num_errors = num_ok + sum(is_ok), num_errors + len(is_ok) - sum(is_ok)
        known = {"ok": ok.hexdigest(), "num_ok": num_ok, "records": digests, "shards": contents}
        writer.add_key_value_metadata({_DIGESTS: json.dumps(known, sort_keys=True).encode()})
    write_whole(path, buffer.getvalue())
    return num_ok, num_errors


class StoreIndex:
    """The index of a store, opened for reading.

    Args:
        path: File of the index.
        manifest: Manifest of the store.

    Raises:
        ImportError: if pyarrow is not installed.
        ValueError: if the index is missing or damaged, or does not belong to the manifest.
    """

    def __init__(self, path: Path, manifest: Manifest):
        self.path = path
        self.manifest = manifest
        with open_index(path, manifest.num_rows) as file:
            self._metadata = file.metadata
        groups = self._metadata.num_row_groups
        expected = (len(manifest.rows_of_shard(number)) for number in range(manifest.num_shards))
        if groups != manifest.num_shards or any(
            self._metadata.row_group(number).num_rows != length for number, length in enumerate(expected)
        ):
            raise ValueError(f"the index {path} is damaged: its parts are not those of the shards")
        self._known = self._digests()

    @property
    def contents(self) -> Sequence[str] | None:
        """SHA-256 of the content of each shard; None if the index does not know them."""
        return None if self._known is None else self._known["shards"]

    def records(self, number: int) -> list[ImageRecord]:
        """Returns the records of a shard.

        Raises:
            ValueError: if they are damaged; the message names their rows.
        """
        rows = self.manifest.rows_of_shard(number)
        try:
            roots = roots_of(*self.manifest.source["names"])
            records = table_to_records(self._read(number), roots)
            is_right = [record.row for record in records] == list(rows)
        except (OSError, ValueError, TypeError, LookupError, pyarrow().ArrowException) as error:
            raise ValueError(f"{self._damaged(rows)} ({one_line(error)})") from error
        if not is_right or (self._known and _digest(records) != self._known["records"][number]):
            raise ValueError(f"{self._damaged(rows)}: they are not what was written")
        return records

    def ok(self) -> Tensor:
        """Returns which rows have features, `(num_rows,)` bool.

        Raises:
            ValueError: if a part of the index is damaged; the message names its rows.
        """
        parts = []
        for number in range(self.manifest.num_shards):
            rows = self.manifest.rows_of_shard(number)
            try:
                status = self._read(number, ["status"])["status"].to_pylist()
            except (OSError, ValueError, LookupError, pyarrow().ArrowException) as error:
                raise ValueError(f"{self._damaged(rows)} ({one_line(error)})") from error
            if set(status) - {"ok", "error"} or len(status) != len(rows):
                raise ValueError(f"{self._damaged(rows)}: the status of a row must be ok or error")
            parts += [value == "ok" for value in status]
        num_ok = sum(parts)
        wrong = self._known and hashlib.sha256(bytes(parts)).hexdigest() != self._known["ok"]
        if wrong or num_ok != (self.manifest.counts or {"ok": num_ok})["ok"]:
            raise ValueError(f"the index {self.path} is damaged: the status of its rows is not what was written")
        return torch.tensor(parts, dtype=torch.bool)

    def first_errors(self, count: int) -> list[ImageRecord]:
        """Returns the first rows that have an error, at most `count`."""
        found: list[ImageRecord] = []
        for number in range(self.manifest.num_shards):
            found += [record for record in self.records(number) if record.error is not None]
            if len(found) >= count:
                break
        return found[:count]

    def num_passing(self) -> int:
        """Returns the number of rows whose error is not the image's fault, such as a network disk that was away."""
        with self._opened() as file:
            errors = file.read(columns=["error"])["error"].to_pylist()
        return sum(error is not None and error.startswith(NOT_THE_IMAGES_FAULT) for error in errors)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Opens the file for a block: a store of many segments has more indices than a process may have open files."""
        with utf8_name(regular_file(self.path)) as name:
            file = pyarrow().parquet.ParquetFile(name, metadata=self._metadata, page_checksum_verification=True)
        with file:
            yield file

    def _read(self, number: int, columns: Sequence[str] | None = None) -> Any:
        """Returns the lines of a shard as a pyarrow table; None takes all columns."""
        with self._opened() as file:
            return file.read_row_group(number, columns=columns)

    def _damaged(self, rows: range) -> str:
        return f"{spell_rows(rows)} of the index {self.path} cannot be read"

    def _digests(self) -> dict[str, Any] | None:
        """Returns what the index knows about its own content; None for an index of an earlier release."""
        text = (self._metadata.metadata or {}).get(_DIGESTS)
        if text is None:
            return None
        try:
            known = json.loads(text)
            is_right = len(known["records"]) == self.manifest.num_shards and isinstance(known["ok"], str)
            num_ok, contents = known["num_ok"], known["shards"]
            is_right = is_right and (contents is None or len(contents) == self.manifest.num_shards)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"the index {self.path} is damaged ({one_line(error)})") from error
        if not is_right or (self.manifest.counts is not None and num_ok != self.manifest.counts["ok"]):
            raise ValueError(f"the index {self.path} is damaged, or the counts of {self.manifest.num_rows} rows are")
        return dict(known)


def open_index(path: Path, num_rows: int) -> Any:
    """Opens the index as a `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if it is missing or damaged, or has other columns or another number of rows.
    """
    pa = pyarrow()
    try:
        with utf8_name(regular_file(path)) as name:
            index = pa.parquet.ParquetFile(name, page_checksum_verification=True)
        found = index.schema_arrow
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"the index {path} is missing or damaged ({one_line(error)})") from error
    if not found.equals(index_schema(_IMAGE_ON_DISK)):
        raise ValueError(f"the index {path} is damaged: it has other columns than an index")
    if index.metadata.num_rows != num_rows:
        raise ValueError(f"the index {path} is damaged: it has {index.metadata.num_rows} rows, expected {num_rows}")
    return index


def _digest(records: Sequence[ImageRecord]) -> str:
    return hashlib.sha256(records_to_json(records)).hexdigest()
