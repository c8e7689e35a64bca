"""From shards to a complete store; what is missing, and what is damaged."""

from collections.abc import Iterable
from pathlib import Path

from stellar_hub.store.index_file import open_index, write_index
from stellar_hub.store.layout import INDEX, MANIFEST, remove_unfinished, shard_path
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.shard_file import check_shard, open_shard, read_records


def missing_shards(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[int]:
    """Those of some shards that are not there.

    Raises:
        ValueError: if one is there but is cut short, unreadable or of another extraction; its rows are named.
    """
    missing = []
    for number in shards:
        path = shard_path(folder, number)
        if not path.exists():
            missing.append(number)
            continue
        try:
            open_shard(path, plan.rows_of_shard(number), plan.plan)
        except ValueError as error:
            raise ValueError(f"{error}; run the same command with --repair, which redoes just these") from error
    return missing


def remove_damaged(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[str]:
    """Read some shards and remove those that are not what was written; one line for each, which names its rows."""
    removed = []
    for number in shards:
        path = shard_path(folder, number)
        if not path.exists():
            continue
        try:
            check_shard(path, plan.rows_of_shard(number), plan.plan)
        except ValueError as error:
            removed.append(str(error))
            path.unlink()
    return removed


def complete(folder: Path, plan: Manifest) -> Manifest:
    """Put the index together and write the counts, if all shards are there; it does no harm to do it again.

    Returns:
        The manifest as it is now; without counts if shards of other processes are still missing.

    Raises:
        OSError: if a file cannot be written.
    """
    numbers = range(plan.num_shards)
    if not all(shard_path(folder, number).exists() for number in numbers):
        return plan
    records = (
        read_records(open_shard(shard_path(folder, number), plan.rows_of_shard(number), plan.plan))
        for number in numbers
    )
    completed = plan.with_counts(*write_index(folder / INDEX, records))
    open_index(folder / INDEX, plan.num_rows)
    remove_unfinished(folder / MANIFEST)
    completed.write(folder)
    return completed
