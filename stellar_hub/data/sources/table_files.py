"""The files of tables, checked before `datasets` reads them: what they declare, and which other files they name."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stellar_hub.data.sources.image_source import file_stamp
from stellar_hub.extras import require
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import path_below, read_bounded, regular_file
from stellar_hub.modeling.safe_text import one_line

PARQUET_MARK = b"PAR1"
STATE_FILE = "state.json"
SMALL_FILE = 2**26  # bytes; files up to this size are read once before, to see how far they expand
FREE_BYTES = 2**28  # a content up to this size is never too large
BATCH_BYTES = 2**26  # about as much is decompressed at a time
MAX_BATCH_ROWS = 1000
MAX_COLUMNS = 4096  # `datasets` takes seconds for thousands


def datasets_library() -> Any:
    """Imports `datasets`.

    Raises:
        ImportError: if it is not installed. The message has the command that installs it.
    """
    return require("datasets", "datasets", "a table of images")


class TablePart(NamedTuple):
    """A file of a table.

    Attributes:
        num_rows: Number of its rows.
        stamp: Text that changes when the file changes.
        batch_rows: Number of rows that are decompressed at a time.
    """

    num_rows: int
    stamp: str
    batch_rows: int = MAX_BATCH_ROWS


@contextmanager
def reading_table(name: str | os.PathLike[str]) -> Iterator[None]:
    """Turns whatever pyarrow and `datasets` raise for a damaged table into a ValueError that names it.

    Errors of the disk, of the network and of a library that is not installed stay as they are.
    """
    try:
        yield
    except (ImportError, MemoryError, FileNotFoundError, ConnectionError):
        raise
    except Exception as error:
        cause = error.__cause__ or error  # `datasets` wraps errors of reading
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from None
        raise ValueError(f"{one_line(name)} cannot be read as a table: {one_line(cause)}") from error


def check_parquet(file: str | os.PathLike[str]) -> TablePart:
    """Compares what a parquet file declares with its size; the content of a small file is counted as well.

    Small files can repeat one image by references to it. In large files, this is not noticed before they are read.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a parquet file, or declares or has more rows or bytes than fit its size.
        ImportError: if pyarrow is not installed.
    """
    pyarrow = require("pyarrow.parquet", "datasets", "a table of images")
    if not Path(file).exists():
        raise FileNotFoundError(f"no such parquet file: {one_line(file)}")
    path, name = regular_file(file), one_line(file)
    size = path.stat().st_size
    with open(path, "rb") as opened:
        if opened.read(len(PARQUET_MARK)) != PARQUET_MARK:
            raise ValueError(f"{name} is not a parquet file")
    with reading_table(file):
        metadata = pyarrow.parquet.read_metadata(path)
        num_rows = metadata.num_rows
        declared = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if metadata.num_columns > MAX_COLUMNS:
        raise ValueError(f"{name} must have at most {MAX_COLUMNS:,} columns, got {metadata.num_columns:,}")
    if not 0 <= num_rows <= size:
        raise ValueError(f"{name} declares {num_rows:,} rows in {size:,} bytes: an image has at least one byte")
    _check_expansion(declared, size, name)
    rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * num_rows // max(declared, 1)))
    if size <= SMALL_FILE and num_rows:
        with reading_table(file):
            expanded = _expanded_bytes(pyarrow.parquet, path, rows)
        _check_expansion(expanded, size, name)
        rows = max(1, min(rows, BATCH_BYTES * num_rows // max(expanded, 1)))
    return TablePart(num_rows, file_stamp(path), rows)


def _check_expansion(content: int, size: int, name: str) -> None:
    if content > FREE_BYTES:
        check_limit("table_expansion", content // max(size, 1), f"the content of {name}")


def _expanded_bytes(parquet: Any, path: Path, batch_rows: int) -> int:
    """Returns the bytes of a table's texts and bytes, without making the copies of values that are repeated."""
    with parquet.ParquetFile(path) as file:
        columns = [file.schema.column(index) for index in range(len(file.schema))]
        names = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    total = 0
    with parquet.ParquetFile(path, read_dictionary=names) as file:
        for batch in file.iter_batches(batch_rows):
            total += sum(_bytes_of(column) for column in batch.columns)
    return total


def _bytes_of(column: Any) -> int:
    """Returns the bytes that a column has if its repeated values are written out."""
    if hasattr(column, "dictionary"):
        compute = require("pyarrow.compute", "datasets", "a table of images").compute
        lengths = compute.binary_length(column.dictionary).take(column.indices)
        return compute.sum(lengths.cast("int64")).as_py() or 0
    if hasattr(column, "field"):  # a structure, such as bytes and path
        return sum(_bytes_of(child) for child in column.flatten())
    return int(column.nbytes)


def load_parquet(files: Sequence[str | os.PathLike[str]], parts: Sequence[TablePart]) -> Any:
    """Loads parquet files as one table: a `datasets.Dataset`.

    Args:
        files: The files.
        parts: What `check_parquet` returned for each file.

    Raises:
        ValueError: if they are damaged, or do not have the same columns.
        ImportError: if `datasets` is not installed.
    """
    datasets = datasets_library()
    with reading_table(files[0]):
        return datasets.load_dataset(
            "parquet",
            data_files=[str(file) for file in files],
            split="train",
            batch_size=min(part.batch_rows for part in parts),
        )


def check_saved_table(folder: str | os.PathLike[str]) -> str:
    """Checks that a saved table names only files of its own folder, and returns a stamp of them.

    Raises:
        OSError: if a file does not exist.
        ValueError: if its list of files is damaged, or names other files.
    """
    state = json.loads(read_bounded(Path(folder) / STATE_FILE, "config_bytes"))
    digest = hashlib.sha256()
    for entry in state["_data_files"]:
        path = regular_file(path_below(folder, entry["filename"], one_line(Path(folder) / STATE_FILE)))
        digest.update(f"{file_stamp(path)}\0".encode())
    return digest.hexdigest()
