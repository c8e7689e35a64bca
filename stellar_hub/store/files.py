"""The files of a store: shards with features, and the index with one line for each row.

A shard is a safetensors file with the features of some rows and the records of these rows' images. Its header names
the rows and the extraction, and holds the SHA-256 of the content: a shard can be checked without any other file. The
index is a parquet file, made from the records of all shards.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from stellar_hub.extras import require
from stellar_hub.features.identity import tensors_sha256
from stellar_hub.features.preparation import ImageRecord
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.old_names import old_names
from stellar_hub.store.manifest import remove_unfinished, spell_rows

RECORDS = "records"  # name of the tensor that holds the records, as bytes of JSON
_HEADER = "stellar_hub"  # a single key: safetensors writes several keys in an order that changes from file to file
_IMAGE = "image"
_IMAGE_ON_DISK = old_names("store_format_1")[_IMAGE]  # format 1 keeps the name it began with
_BOX = ("crop_top", "crop_left", "crop_bottom", "crop_right")


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard.

    Attributes:
        first_row: The first row in the shard.
        num_rows: Number of rows in the shard.
        plan: Identity of the extraction that the shard belongs to.
        sha256: SHA-256 of all tensors in the shard.
    """

    first_row: int
    num_rows: int
    plan: str
    sha256: str


def write_shard(
    path: Path, rows: range, tensors: Mapping[str, Tensor], records: Sequence[ImageRecord], plan: str
) -> None:
    """Writes a shard, the whole file or nothing.

    Raises:
        OSError: if it cannot be written, for example because the disk is full.
    """
    remove_unfinished(path)
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    contents[RECORDS] = torch.frombuffer(bytearray(records_to_json(records)), dtype=torch.uint8)
    header = ShardHeader(rows.start, len(rows), plan, tensors_sha256(contents))
    write_atomically(path, serialize(contents, metadata={_HEADER: json.dumps(asdict(header), sort_keys=True)}))


def open_shard(path: Path, rows: range, plan: str | None = None) -> Any:
    """Opens a shard as a memory map; this does not read its tensors.

    Args:
        path: File of the shard.
        rows: Rows that the shard should hold.
        plan: Extraction that the shard should belong to; None accepts any.

    Raises:
        ValueError: if the shard is missing, damaged or another one; the message names the rows.
    """
    try:
        file = safe_open(path, framework="pt")
        found = ShardHeader(**json.loads((file.metadata() or {})[_HEADER]))
    except FileNotFoundError:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} does not exist") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} is damaged ({error})") from error
    if (found.first_row, found.num_rows) != (rows.start, len(rows)) or plan not in (None, found.plan):
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} belongs to another extraction")
    return file


def check_shard(path: Path, rows: range, plan: str) -> None:
    """Reads a whole shard and compares it with its SHA-256.

    Raises:
        ValueError: if the shard is missing, damaged or another one; the message names the rows.
    """
    file = open_shard(path, rows, plan)
    header = json.loads(file.metadata()[_HEADER])
    if tensors_sha256({name: file.get_tensor(name) for name in file.keys()}) != header["sha256"]:  # noqa: SIM118
        raise ValueError(f"{spell_rows(rows)} cannot be trusted: {path} is not what was written")


def read_records(file: Any) -> list[ImageRecord]:
    """Returns the records in an open shard."""
    return records_from_json(file.get_tensor(RECORDS).numpy().tobytes())


def records_to_json(records: Sequence[ImageRecord]) -> bytes:
    """Returns records as JSON, one list of values for each."""
    lines = [[record.row, record.image, record.original_size, record.crop_box, record.error] for record in records]
    return json.dumps(lines, separators=(",", ":")).encode()


def records_from_json(data: bytes) -> list[ImageRecord]:
    """Returns the records that `records_to_json` wrote."""
    return [
        ImageRecord(row, image, size and tuple(size), box and tuple(box), error)
        for row, image, size, box, error in json.loads(data)
    ]


def pyarrow() -> Any:
    """Returns the library that reads and writes parquet.

    Raises:
        ImportError: if it is not installed.
    """
    return require("pyarrow.parquet", "extract", "the index of a feature store")


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
    columns = [list(column) for column in zip(*lines, strict=True)]
    return pyarrow().table(columns, schema=index_schema(image))


def table_to_records(table: Any) -> list[ImageRecord]:
    """Returns the records in a pyarrow table that has the columns of the index."""
    records = []
    for line in table.rename_columns(index_schema().names).to_pylist():
        seen = line["original_height"] is not None
        size = (line["original_height"], line["original_width"]) if seen else None
        box = tuple(line[name] for name in _BOX) if seen else None
        records.append(ImageRecord(line["row"], line["image"], size, box, line["error"]))
    return records


def write_index(path: Path, shards: Iterable[Sequence[ImageRecord]]) -> tuple[int, int]:
    """Writes the index, with one row group for each shard.

    Args:
        path: File of the index.
        shards: Records of each shard, in the order of rows.

    Returns:
        The number of rows that are ok, and the number of rows with an error.

    Raises:
        OSError: if it cannot be written.
    """
    remove_unfinished(path)
    pa = pyarrow()
    buffer, num_ok, num_errors = io.BytesIO(), 0, 0
    schema = index_schema(_IMAGE_ON_DISK)
    with pa.parquet.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for records in shards:
            writer.write_table(records_to_table(records, _IMAGE_ON_DISK), row_group_size=len(records))
            failed = sum(record.error is not None for record in records)
            num_ok, num_errors = num_ok + len(records) - failed, num_errors + failed
    write_atomically(path, buffer.getvalue())
    return num_ok, num_errors


def open_index(path: Path, num_rows: int) -> Any:
    """Opens the index as a `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if it is missing or damaged, or has another number of rows.
    """
    pa = pyarrow()
    try:
        index = pa.parquet.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"the index {path} is missing or damaged ({error})") from error
    if index.metadata.num_rows != num_rows or index.schema_arrow.names != index_schema(_IMAGE_ON_DISK).names:
        raise ValueError(f"the index {path} is damaged: it has {index.metadata.num_rows} rows, expected {num_rows}")
    return index
