"""Where things are in a store."""

import os
from collections.abc import Iterator
from pathlib import Path

MANIFEST = "manifest.json"
INDEX = "index.parquet"
SHARDS = "shards"
LOCK = ".lock"


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / SHARDS / f"{number:06d}.safetensors"


def num_shards(num_rows: int, shard_rows: int) -> int:
    """How many shards hold these rows."""
    return -(-num_rows // shard_rows)


def rows_of_shard(number: int, num_rows: int, shard_rows: int) -> range:
    """The rows of a shard; the last shard may be shorter."""
    return range(number * shard_rows, min((number + 1) * shard_rows, num_rows))


def spell_rows(rows: range) -> str:
    """Rows as an error says them."""
    return f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start} to {rows.stop - 1}"


def unknown_files(folder: Path) -> list[str]:
    """Names in a folder that are no part of a store."""
    own = {MANIFEST, INDEX, SHARDS, LOCK}
    return sorted(name for name in os.listdir(folder) if name not in own and not is_unfinished(name))


def is_unfinished(name: str) -> bool:
    """Whether a file is what a killed process leaves of one it was writing (see `modeling/atomic_write.py`)."""
    return name.startswith(".") and name.endswith(".part")


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file; none may be writing it."""
    for leftover in unfinished(path):
        leftover.unlink(missing_ok=True)


def unfinished(path: Path) -> Iterator[Path]:
    """What killed processes left of a file."""
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if is_unfinished(name) and name.startswith(f".{path.name}."):
                yield path.parent / name
