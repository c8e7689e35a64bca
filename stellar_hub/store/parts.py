"""The parts of a store: the rows that it was begun with, and the segments that appends added.

A segment is a folder like that of a store, `segments/000001` and so on. Its rows go on where the rows before it end, so
that its shards, its index and all errors name the rows of the whole store. While an append fills it, it has a hidden
name, and no reader sees it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.files import open_shard, read_records
from stellar_hub.store.index import StoreIndex
from stellar_hub.store.manifest import (
    INDEX,
    MANIFEST,
    SEGMENTS,
    Manifest,
    differences_of_segment,
    is_passed_over,
    shard_path,
)
from stellar_hub.store.manifest_fields import MAX_ROWS

PENDING = ".pending"  # the segment that an append fills
_NUMBER = re.compile(r"[0-9]{6}")


def segment_path(folder: Path, number: int) -> Path:
    """Returns the folder of a segment of a store; the first has the number 1."""
    return folder / SEGMENTS / f"{number:06d}"


def pending_path(folder: Path) -> Path:
    """Returns the folder of the segment that an append fills."""
    return folder / SEGMENTS / PENDING


def find_segments(folder: Path) -> list[Path]:
    """Returns the folders of the segments of a store, in order, without the one that an append fills.

    Raises:
        ValueError: if something else is among them, such as a link, if one is missing, or if there are too many.
    """
    place = folder / SEGMENTS
    if not os.path.lexists(place):
        return []
    if place.is_symlink() or not place.is_dir():
        raise ValueError(f"{one_line(place)} must be a folder of segments, and is a link or a file: remove it")
    names = []
    with os.scandir(place) as entries:
        for entry in entries:
            if is_passed_over(entry.name):
                continue
            if not _NUMBER.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                raise ValueError(
                    f"{one_line(entry.path)} is not a segment: allowed in {SEGMENTS} are folders 000001, 000002 and so "
                    "on, as --append makes them"
                )
            names.append(entry.name)
            check_limit("store_segments", len(names), one_line(folder))
    for number, name in enumerate(sorted(names), start=1):
        if int(name) != number:
            raise ValueError(f"the segments of {one_line(folder)} are not whole: {number:06d} is missing")
    return [segment_path(folder, number + 1) for number in range(len(names))]


def read_manifests(folder: Path, num_segments: int | None = None) -> list[tuple[Path, Manifest]]:
    """Returns the folder and the manifest of each part of a store, in the order of rows.

    Args:
        folder: Folder of the store.
        num_segments: Number of segments to read, the first ones; None reads all.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ValueError: if a manifest is damaged, or a segment does not follow the rows before it.
    """
    base = Manifest.read(folder)
    if base.segment is not None:
        whole = one_line(Path(os.path.abspath(folder)).parent.parent)
        raise ValueError(f"{one_line(folder)} is a segment of a store: open the whole store, {whole}")
    found = [(folder, base)]
    for place in find_segments(folder)[:num_segments]:
        if not (place / MANIFEST).is_file():
            raise ValueError(
                f"the segment {one_line(place)} is damaged: it has no {MANIFEST}; {remedy_of_segment(place)}"
            )
        try:
            manifest = Manifest.read(place)
        except ValueError as error:
            raise ValueError(f"{error}; {remedy_of_segment(place)}") from error
        _check_follows(place, manifest, found)
        found.append((place, manifest))
    return found


def remedy_of_damage(has_segments: bool) -> str:
    """Returns what to do about damaged rows of a store, with or without segments."""
    options = "--append --repair" if has_segments else "--repair"
    return f"run the same extract command with {options} to extract only the damaged rows again"


def remedy_of_segment(place: Path) -> str:
    """Returns what to do about a segment whose manifest is damaged."""
    return (
        f"restore this file, or remove {one_line(place)} and the segments after it, and run the same command with "
        "--append, which adds their images again"
    )


def _check_follows(place: Path, manifest: Manifest, before: Sequence[tuple[Path, Manifest]]) -> None:
    """Raises ValueError unless the manifest of a segment fits the parts before it."""
    last = before[-1][1]
    expected = {"number": len(before), "first_row": last.rows.stop, "after": last.plan}
    if manifest.segment is None or dict(manifest.segment) != expected:
        raise ValueError(
            f"the segment {one_line(place)} does not follow the rows before it: it belongs to another store, or a "
            f"manifest has changed; {remedy_of_segment(place)}"
        )
    if manifest.rows.stop > MAX_ROWS:
        raise ValueError(f"the segment {one_line(place)} has more rows than a store can have, {MAX_ROWS}")
    lines = differences_of_segment(before[0][1], manifest)
    if lines:
        raise ValueError(
            f"the segment {one_line(place)} does not fit the store ('now' is the segment): {'; '.join(lines)}"
        )


@dataclass(frozen=True, eq=False)
class StorePart:
    """One part of a store: a folder with a manifest, an index and shards.

    Attributes:
        folder: Folder of the part.
        manifest: Its manifest.
        index: Its index.
    """

    folder: Path
    manifest: Manifest
    index: StoreIndex

    @cached_property
    def plan(self) -> str:
        """Identity of the extraction that the part's shards belong to."""
        return self.manifest.plan

    def shard_path(self, number: int) -> Path:
        """Returns the file of a shard; numbers count within the part."""
        return shard_path(self.folder, number)


def open_parts(folder: Path, num_segments: int | None = None) -> list[StorePart]:
    """Opens all parts of a store.

    Args:
        folder: Folder of the store.
        num_segments: Number of segments to open, the first ones; None opens all.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if a part is damaged, or is not complete.
    """
    parts = []
    manifests = read_manifests(folder, num_segments)
    for place, manifest in manifests:
        if manifest.counts is None:
            again = "with --append" if len(manifests) > 1 else "again"
            raise ValueError(f"{one_line(place)} is not complete: run the same extract command {again} to resume it")
        try:
            parts.append(StorePart(place, manifest, StoreIndex(place / INDEX, manifest)))
        except ValueError as error:
            raise ValueError(f"{error}; {remedy_of_damage(len(manifests) > 1)}") from error
    return parts


def names_of_part(folder: Path, manifest: Manifest) -> list[str]:
    """Returns the names of the images of a part, out of its index, or where that is damaged out of its shards.

    Raises:
        ValueError: if the names of some rows are damaged in both; the message names the rows.
    """
    try:
        index = StoreIndex(folder / INDEX, manifest)
    except ValueError:
        index = None
    return [
        record.image for number in range(manifest.num_shards) for record in _records_of(folder, manifest, index, number)
    ]


def _records_of(folder: Path, manifest: Manifest, index: StoreIndex | None, number: int) -> list[ImageRecord]:
    if index is not None:
        try:
            return index.records(number)
        except ValueError:  # the shard may have them
            pass
    try:
        return read_records(open_shard(shard_path(folder, number), manifest.rows_of_shard(number), manifest.plan))
    except ValueError as error:
        raise ValueError(
            f"{error}; the index {one_line(folder / INDEX)} lacks these rows as well, so that the names of their "
            "images are lost: extract all images into another folder"
        ) from error
