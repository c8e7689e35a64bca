"""Appending to a store: the images that it does not have yet become new rows, in a segment of their own.

Everything that is there stays as it is, byte for byte. The segment has a hidden name until it is complete, so that a
reader sees all of its rows or none. It keeps the list of its images, so that the same command goes on after a kill even
if still more images have come since.
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stellar_hub.data.sources import ImageSource
from stellar_hub.modeling.atomic_write import sync, write_atomically
from stellar_hub.modeling.limits import max_allowed, variable_of
from stellar_hub.modeling.safe_paths import read_bounded
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.files import open_shard
from stellar_hub.store.images_of_rows import ImagesOfRows, PlacesByName, find_rows, key_of, names_sha256
from stellar_hub.store.manifest import (
    INDEX,
    SHARDS,
    Manifest,
    differences,
    differences_of_segment,
    shard_path,
    spell_rows,
)
from stellar_hub.store.parts import names_of_part, pending_path, read_manifests, segment_path
from stellar_hub.store.resume import is_stale, stamps_sha256

IMAGES = "images.txt"  # names of the images of a segment that is not complete yet
_BEGUN_AGAIN = ("source", "segment", "library")  # values that no option of the command brings back
_MAX_NAMED = 3


@dataclass(frozen=True)
class Known:
    """What an append knows about a store and a source.

    Attributes:
        parts: Folder and manifest of each part of the store.
        images: The images of each part.
        new: Indices of the images of the source that no part has, in the order of the source.
    """

    parts: Sequence[tuple[Path, Manifest]]
    images: Sequence[ImagesOfRows]
    new: Sequence[int]

    @classmethod
    def look(cls, folder: Path, source: ImageSource) -> "Known":
        """Compares the names in a store with those in a source.

        Raises:
            TypeError: if an image of the source has no name.
            ValueError: if the store is damaged.
        """
        parts = read_manifests(folder)
        places = PlacesByName(source)
        images = []
        for place, manifest in parts:
            names = names_of_part(place, manifest)
            keys = [key_of(name, manifest.source["names"]) for name in names]
            images.append(find_rows(places, source, names, keys, manifest.rows.start))
        return cls(parts, images, places.rest())

    @property
    def num_rows(self) -> int:
        """Number of rows of the store."""
        return self.parts[-1][1].rows.stop

    def about_gone(self) -> list[str]:
        """Returns a line about the images that the source does not have, and one about the others of their shards."""
        gone = {row: name for images in self.images for row, name in images.gone.items()}
        if not gone:
            return []
        row, name = next(iter(gone.items()))
        name = one_line(name)
        line = f"{len(gone)} rows stay whose images the source does not have; the first is row {row}, {name}"
        if len(gone) == 1:
            line = f"1 row stays whose image the source does not have: row {row}, {name}"
        unseen = [spell_rows(rows) for rows in self._shards_with_gaps()]  # a shard has one digest of all of its images
        if not unseen:
            return [line]
        return [line, f"changes of other images among {_spell(unseen)} are neither noticed nor repaired"]

    def _shards_with_gaps(self) -> list[range]:
        """Returns the rows of the shards of which the source has some images, but not all."""
        return [
            rows
            for (_, manifest), images in zip(self.parts, self.images, strict=True)
            for rows in map(manifest.rows_of_shard, range(manifest.num_shards))
            if images.lacks(rows) and any(row not in images.gone for row in rows)
        ]

    def about_changed(self) -> list[str]:
        """Returns a line about the rows whose images have changed since they were extracted, if there are any.

        Raises:
            ValueError: if a shard is missing or damaged; the message names its rows.
        """
        changed = []
        for (folder, manifest), images in zip(self.parts, self.images, strict=True):
            plan = manifest.plan
            for number in range(manifest.num_shards):
                rows = manifest.rows_of_shard(number)
                try:
                    file = open_shard(shard_path(folder, number), rows, plan)
                except ValueError as error:
                    raise ValueError(f"{error}; add --repair to extract only these rows again") from error
                if not images.lacks(rows) and is_stale(file, stamps_sha256(images, rows)):
                    changed.append(spell_rows(rows))
        if not changed:
            return []
        shards = "1 shard has" if len(changed) == 1 else f"{len(changed)} shards have"
        return [
            f"{shards} features of images whose files have changed since ({_spell(changed)}): these rows stay as they "
            "are; add --repair to extract them again, or extract into a new folder"
        ]


def _spell(shards: Sequence[str]) -> str:
    """Returns the first few of the rows of shards, and the number of the others."""
    more = len(shards) - _MAX_NAMED
    return ", ".join(shards[:_MAX_NAMED]) + (f" and {more} more shard{'s' * (more > 1)}" if more > 0 else "")


@dataclass(frozen=True)
class Pending:
    """The segment that an append fills.

    Attributes:
        folder: Its folder until it is complete.
        plan: Its manifest.
        images: The images of its rows.
        resumed: Whether an earlier append has begun it.
    """

    folder: Path
    plan: Manifest
    images: ImagesOfRows
    resumed: bool


def can_append(folder: Path) -> bool:
    """Whether a folder holds a store whose first rows have all been extracted, so that others can follow them."""
    try:
        manifest = Manifest.read(folder)
    except (FileNotFoundError, ValueError):  # a new store, or a damaged one: `begin` says it
        return False
    return manifest.counts is not None or (folder / INDEX).is_file()  # it was complete, and is being repaired


def check_fits(folder: Path, base: Manifest, plan: Manifest) -> None:
    """Raises FileExistsError, which names the differences, if rows of a plan cannot follow those of a store."""
    lines = differences_of_segment(base, plan)
    if lines:
        raise FileExistsError(
            f"{folder} holds a store of another extraction: {'; '.join(lines)}. New rows have the values that the "
            "store was begun with: use them, or name another folder for a new store (--output)"
        )


def begin_segment(folder: Path, known: Known, source: ImageSource, like: Manifest) -> tuple[Pending | None, list[str]]:
    """Begins the next segment of a store, or goes on with the one that an earlier append has begun.

    That one keeps its list of images. It is begun again if the source does not have all of them any more.

    Args:
        folder: Folder of the store.
        known: What the append knows.
        source: The images.
        like: Plan whose model, preprocessing, features and options the segment has.

    Returns:
        The segment, or None if there are no new images; and what to say about an append that was interrupted.

    Raises:
        FileExistsError: if a segment was begun with other options; the message names them.
        OSError: if a file cannot be written.
        ValueError: if something else has the segment's name, or the store would have more segments than are read.
    """
    place = pending_path(folder)
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise ValueError(f"{one_line(place)} must be the folder of a segment, and is a link or a file: remove it")
    again: list[str] = []
    if place.is_dir():
        found = _resumed(place, known, source, like)
        if isinstance(found, Pending):
            return found, [f"an append that was interrupted goes on: {spell_rows(found.plan.rows)}"]
        again = [f"an append that was interrupted is begun again: {reason}" for reason in (found,) if reason]
        shutil.rmtree(place)
    images = ImagesOfRows(source, known.new, known.num_rows)
    names = images.names()
    if not names:
        return None, again
    plan = _plan_of(names, known, like)
    (place / SHARDS).mkdir(parents=True, exist_ok=True)
    write_atomically(place / IMAGES, "".join(f"{name}\n" for name in names).encode())
    plan.write(place)
    return Pending(place, plan, images, False), again


def _plan_of(names: Sequence[str], known: Known, like: Manifest) -> Manifest:
    """Returns the manifest of a segment with these images that follows the known parts.

    Raises:
        ValueError: if the store would have more segments than are read.
    """
    if len(known.parts) > max_allowed("store_segments"):
        raise ValueError(
            f"{one_line(known.parts[0][0])} has as many segments as a store may have, {len(known.parts) - 1:,}: "
            "extract all images into a new folder, or set the environment variable "
            f"{variable_of('store_segments')} to a larger number"
        )
    segment = {"number": len(known.parts), "first_row": known.num_rows, "after": known.parts[-1][1].plan}
    source = dict(like.source) | {"fingerprint": names_sha256(names), "num_images": len(names)}
    return dataclasses.replace(like, source=source, segment=segment, counts=None)


def _resumed(place: Path, known: Known, source: ImageSource, like: Manifest) -> Pending | str:
    """Returns the segment that an earlier append has begun, or why it must be begun again: "" if nothing was done."""
    try:
        found = Manifest.read(place)
        names = _listed(place, found)
    except FileNotFoundError:  # an append was killed before it had begun the work
        return ""
    except ValueError as error:
        return one_line(error)
    plan = _plan_of(names, known, like)
    options = differences(found, plan, _BEGUN_AGAIN)
    if options:
        raise FileExistsError(
            f"{place} holds an append that was interrupted, with other options: {'; '.join(options)}. Use them, or "
            "remove this folder to begin the append again"
        )
    lines = differences(found, plan)
    if lines:
        return "; ".join(lines)
    keys = [key_of(name, found.source["names"]) for name in names]
    images = find_rows(PlacesByName(source, known.new), source, names, keys, known.num_rows)
    if images.gone:
        name = one_line(next(iter(images.gone.values())))
        return f"{len(images.gone)} of its images are not among the new ones any more, the first is {name}"
    return Pending(place, dataclasses.replace(plan, counts=found.counts), images, True)


def _listed(place: Path, found: Manifest) -> list[str]:
    """Returns the names of the images of a segment that is not complete.

    Raises:
        ValueError: if it has no list, or a damaged one.
    """
    if found.counts is not None and not (place / IMAGES).is_file():  # all is done but its name
        return names_of_part(place, found)
    try:
        names = read_bounded(place / IMAGES, "text_bytes").decode().split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise ValueError(f"its list of images cannot be read ({one_line(error)})") from error
    if names_sha256(names) != found.source["fingerprint"] or len(names) != found.num_rows:
        raise ValueError("its list of images is damaged")
    return names


def publish(folder: Path, number: int) -> Manifest:
    """Gives a segment that is complete its name, so that readers see it; a second call changes nothing.

    Returns:
        The manifest of the segment; it has no counts while other processes still work on it.

    Raises:
        OSError: if it cannot be renamed.
    """
    place, target = pending_path(folder), segment_path(folder, number)
    if target.is_dir():  # another process of the launch was first
        return Manifest.read(target)
    manifest = Manifest.read(place)
    if manifest.counts is not None:
        (place / IMAGES).unlink(missing_ok=True)
        os.replace(place, target)
        sync(target.parent)
    return manifest
