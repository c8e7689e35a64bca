"""What a run finds in the folder of a store, and what it therefore has to do."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stellar_hub.data.sources import ImageFolder, ImageSource
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import track
from stellar_hub.store.files import check_shard, header_of, open_shard, read_records
from stellar_hub.store.manifest import SHARDS, Manifest, differences, shard_path, unknown_files
from stellar_hub.store.parts import find_segments
from stellar_hub.store.plan import batches_of

MANY_ROWS = 10_000  # from so many on, progress is shown
_REPAIR = "run the same command with --repair to extract only these rows again"


@dataclass(frozen=True)
class Work:
    """What a process has to do for its shards.

    Attributes:
        shards: Shards to extract as a whole.
        retried: Batches with failed rows, by the number of their shard: they are extracted again.
        num_failed: Number of failed rows in these batches.
        stamps: SHA-256 of the stamps of each shard's images; None where they are not known.
        repaired: One line for each damaged shard that is extracted again.
        num_stale: Number of shards whose images have changed, which are extracted again.
    """

    shards: Sequence[int]
    retried: Mapping[int, Sequence[range]] = field(default_factory=dict)
    num_failed: int = 0
    stamps: Mapping[int, str | None] = field(default_factory=dict)
    repaired: Sequence[str] = ()
    num_stale: int = 0

    def num_rows(self, plan: Manifest) -> int:
        """Returns the number of rows to extract."""
        whole = sum(len(plan.rows_of_shard(number)) for number in self.shards)
        return whole + sum(len(batch) for batches in self.retried.values() for batch in batches)


def prepare_folder(folder: Path) -> Path:
    """Creates the folder of a store and returns it.

    Raises:
        FileExistsError: if it is a file, or holds something else.
        OSError: if it cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder for the store")
    if folder.is_dir() and (others := unknown_files(folder)):
        raise FileExistsError(f"{folder} holds something else ({one_line(others[0])}): name a new folder for the store")
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    return folder


def check_apart(folder: Path, source: ImageSource, names: Sequence[str] = ()) -> None:
    """Raises ValueError if the folder of a store is a folder of images, or inside one, or holds one.

    Args:
        folder: Folder of the store.
        source: The images.
        names: Names that the source was opened by.
    """
    parts = getattr(source, "sources", (source,))
    places: list[str | os.PathLike[str]] = [part.folder for part in parts if isinstance(part, ImageFolder)]
    store = os.path.realpath(folder)
    for place in [*places, *(name for name in names if os.path.isdir(name))]:
        images = os.path.realpath(place)
        if os.path.commonpath([store, images]) in (images, store):
            raise ValueError(
                f"the store {folder} and the folder of images {one_line(place)} must lie apart: name an output outside "
                "of the folder of images"
            )


def begin(folder: Path, plan: Manifest, repair: bool) -> Manifest:
    """Writes the manifest of a new store, or checks that the store has this plan; returns the store's manifest.

    Raises:
        FileExistsError: if the store has another plan; the message names the differences.
        ValueError: if its manifest is damaged and `repair` is not set.
    """
    try:
        found = Manifest.read(folder)
    except FileNotFoundError:
        _check_next_segment(folder, plan)
        plan.write(folder)
        return plan
    except ValueError as error:
        if not repair:
            raise ValueError(f"{error}; run the same command with --repair to write it again") from error
        _check_next_segment(folder, plan)
        plan.write(folder)
        return plan
    lines = differences(found, plan)
    if lines:
        only_images = not differences(found, plan, ("source",))
        raise FileExistsError(
            f"{folder} holds a store of another extraction: {'; '.join(lines)}. {_next_step(found, only_images)}"
        )
    return found


def _next_step(found: Manifest, only_images: bool) -> str:
    """Returns what to do about a store of another extraction, in a sentence."""
    if only_images and found.counts is not None:
        return "Add --append (append=True) to add new images as new rows, or name another folder (--output)"
    if only_images:
        return (
            "The store is not complete, and only the images that it was begun with complete it; then --append adds "
            "others. Or name another folder (--output)"
        )
    return (
        "A store keeps the values that it was begun with: use them, or name another folder for the new store (--output)"
    )


def _check_next_segment(folder: Path, plan: Manifest) -> None:
    """Raises ValueError if a manifest would be written again that the segments of the store do not follow."""
    segments = find_segments(folder)
    if segments and dict(Manifest.read(segments[0]).segment or {}).get("after") != plan.plan:
        raise ValueError(
            f"the manifest of {folder} is lost, and its segments follow other images or options than those of this "
            "command: name just the images that the store was begun with, or restore the manifest"
        )


def plan_work(
    folder: Path,
    plan: Manifest,
    source: ImageSource,
    shards: Sequence[int],
    repair: bool,
    retry_errors: bool,
    kept: Sequence[int] = (),
) -> Work:
    """Returns what is to be done for some shards; shards that are damaged or stale are removed.

    Args:
        folder: Folder of the store.
        plan: Manifest of the store.
        source: The images.
        shards: Numbers of the shards that belong to this process.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        retry_errors: Whether to extract rows with an error again.
        kept: Shards that stay though their images have changed.

    Raises:
        ValueError: if a shard is damaged and `repair` is not set.
    """
    looked_at = track(shards, "looking for images that changed", unit="shard", enabled=plan.num_rows >= MANY_ROWS)
    stamps = {number: stamps_sha256(source, plan.rows_of_shard(number)) for number in looked_at}
    repaired = remove_damaged(folder, plan, shards) if repair else []
    num_stale = remove_stale(folder, plan, {number: now for number, now in stamps.items() if number not in kept})
    missing = missing_shards(folder, plan, shards)
    there = sorted(set(shards) - set(missing))
    for number in set(kept).intersection(there):  # so that the change can be noticed later too
        stamps[number] = header_of(open_shard(shard_path(folder, number), plan.rows_of_shard(number))).stamps
    retried, num_failed = failed_batches(folder, plan, there) if retry_errors else ({}, 0)
    return Work(missing, retried, num_failed, stamps, repaired, num_stale)


def stamps_sha256(source: ImageSource, rows: range) -> str | None:
    """Returns the SHA-256 of the stamps of some images, which changes when their files change.

    Returns:
        The digest in hexadecimal; None if the source knows no stamps.
    """
    stamp = getattr(source, "stamp", None)
    if stamp is None:
        return None
    digest = hashlib.sha256()
    for row in rows:
        try:
            text = str(stamp(row))
        except (OSError, ValueError):  # not there, or not to be read: this counts as a state too
            text = ""
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _stamps_of_nothing(rows: range) -> str:
    """Returns what `stamps_sha256` returns if none of the files is there."""
    return hashlib.sha256(bytes(len(rows))).hexdigest()


def is_stale(file: object, stamps: str | None) -> bool:
    """Whether the images of an open shard have changed since it was written, as far as this is known."""
    return stamps is not None and header_of(file).stamps not in (None, stamps)


def remove_stale(folder: Path, plan: Manifest, stamps: Mapping[int, str | None]) -> int:
    """Removes the shards whose images have changed; returns how many.

    A shard of which no image is there now stays: more likely a disk is away than all images have changed.
    """
    count = 0
    for number, now in stamps.items():
        path = shard_path(folder, number)
        if now in (None, _stamps_of_nothing(plan.rows_of_shard(number))) or not path.exists():
            continue
        try:
            file = open_shard(path, plan.rows_of_shard(number), plan.plan)
        except ValueError:  # damaged: `missing_shards` says it
            continue
        if is_stale(file, now):
            path.unlink()
            count += 1
    return count


def missing_shards(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[int]:
    """Returns those of some shards that do not exist yet.

    Raises:
        ValueError: if one exists but is cut short, unreadable or of another extraction; the message names its rows.
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
            raise ValueError(f"{error}; {_REPAIR}") from error
    return missing


def remove_damaged(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[str]:
    """Reads some shards and removes the damaged ones; returns one line for each, which names its rows."""
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


def failed_batches(folder: Path, plan: Manifest, shards: Iterable[int]) -> tuple[dict[int, list[range]], int]:
    """Returns the batches of some shards that have failed rows, and the number of these rows.

    Whole batches are extracted again, so that the store becomes the one that it would be without the failure.

    Raises:
        ValueError: if the records of a shard are damaged; the message names its rows.
    """
    batches, count = {}, 0
    for number in shards:
        path, rows = shard_path(folder, number), plan.rows_of_shard(number)
        try:
            records = read_records(open_shard(path, rows, plan.plan))
        except ValueError as error:
            raise ValueError(f"{error}; {_REPAIR}") from error
        failed = {record.row for record in records if record.error is not None}
        found = [batch for batch in batches_of(plan, number) if failed.intersection(batch)]
        if found:
            batches[number] = found
            count += len(failed)
    return batches, count
