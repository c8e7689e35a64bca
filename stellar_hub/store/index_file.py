"""The index: a parquet file with a line for each row, put together from the shards."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stellar_hub.features.image_record import ImageRecord
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.store.layout import remove_unfinished

INSTALL = "the index of a feature store is a parquet file: pip install 'stellar_hub[extract]'"


def pyarrow() -> Any:
    """The library, or how to get it.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return pyarrow


def index_schema() -> Any:
    """Columns and types."""
    pa = pyarrow()
    numbers = {name: pa.int32() for name in ("original_height", "original_width")}
    box = {f"crop_{side}": pa.float64() for side in ("top", "left", "bottom", "right")}
    texts = {"status": pa.string(), "error": pa.string()}
    return pa.schema({"row": pa.int64(), "image": pa.string(), **numbers, **box, **texts})


def records_to_table(records: Sequence[ImageRecord]) -> Any:
    """Records as a pyarrow table."""
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
    schema = index_schema()
    columns = [list(column) for column in zip(*lines, strict=True)]
    return pyarrow().table(columns, schema=schema)


def table_to_records(table: Any) -> list[ImageRecord]:
    """Records out of a pyarrow table of the index."""
    records = []
    for line in table.to_pylist():
        seen = line["original_height"] is not None
        size = (line["original_height"], line["original_width"]) if seen else None
        box = tuple(line[f"crop_{side}"] for side in ("top", "left", "bottom", "right")) if seen else None
        records.append(ImageRecord(line["row"], line["image"], size, box, line["error"]))
    return records


def write_index(path: Path, shards: Iterable[Sequence[ImageRecord]]) -> tuple[int, int]:
    """Write the index, one row group for each shard.

    Args:
        path: The file.
        shards: Records, shard by shard.

    Returns:
        How many rows are ok, and how many have an error.

    Raises:
        OSError: if it cannot be written.
    """
    remove_unfinished(path)
    pa = pyarrow()
    buffer, num_ok, num_errors = io.BytesIO(), 0, 0
    with pa.parquet.ParquetWriter(buffer, index_schema(), compression="zstd", write_page_checksum=True) as writer:
        for records in shards:
            writer.write_table(records_to_table(records), row_group_size=len(records))
            failed = sum(record.error is not None for record in records)
            num_ok, num_errors = num_ok + len(records) - failed, num_errors + failed
    write_atomically(path, buffer.getvalue())
    return num_ok, num_errors


def open_index(path: Path, num_rows: int) -> Any:
    """The index, as a `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if it is missing, damaged, or of another number of rows.
    """
    pa = pyarrow()
    try:
        index = pa.parquet.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"the index {path} is missing or damaged ({error})") from error
    if index.metadata.num_rows != num_rows or index.schema_arrow.names != index_schema().names:
        raise ValueError(f"the index {path} is damaged: it has {index.metadata.num_rows} rows, not {num_rows}")
    return index
