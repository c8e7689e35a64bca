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
BATCH_ROWS = 256  # rows that `datasets` decompresses at a time


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
    """

    num_rows: int
    stamp: str


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
    """Compares what a parquet file declares with its size, by reading its metadata alone.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a parquet file, or declares more rows or bytes than it can have.
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
    if not 0 <= num_rows <= size:
        raise ValueError(f"{name} declares {num_rows:,} rows in {size:,} bytes: an image has at least one byte")
    check_limit("table_expansion", declared // max(size, 1), name)
    return TablePart(num_rows, file_stamp(path))


def load_parquet(files: Sequence[str | os.PathLike[str]]) -> Any:
    """Loads parquet files as one table: a `datasets.Dataset`. `check_parquet` must have accepted them.

    Raises:
        ValueError: if they are damaged, or do not have the same columns.
        ImportError: if `datasets` is not installed.
    """
    datasets = datasets_library()
    with reading_table(files[0]):
        return datasets.load_dataset(
            "parquet", data_files=[str(file) for file in files], split="train", batch_size=BATCH_ROWS
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
