"""The images that a store was made from: opening them again, and noticing that they have changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stellar_hub.data.sources import ImageSource, open_sources
from stellar_hub.data.sources.files import file_stamp
from stellar_hub.features.rows import file_name, printable
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.progress import track
from stellar_hub.store.images_of_rows import ROW, ImagesOfRows, PlacesByName, find_rows, key_of
from stellar_hub.store.manifest import spell_rows
from stellar_hub.store.plan import absolute
from stellar_hub.store.resume import MANY_ROWS, stamps_sha256

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore


def open_named_source(
    store: "FeatureStore",
    names: Sequence[str | os.PathLike[str]] | None,
    trust_names: bool,
    verify: bool,
    root: str | os.PathLike[str] | None,
) -> ImageSource:
    """Opens the images of a store; the arguments and the errors are those of `FeatureStore.source`."""
    kept = names_of_source(store)
    own_names = names is not None
    if names is None:
        if not kept:
            raise ValueError(
                f"{store.path} has no name for its source of images: pass names, as open_sources takes them"
            )
        if not trust_names:
            raise ValueError(
                f"{store.path} says that its images are {_spell_names(kept)}: pass trust_names=True to open these "
                "names, or names to open others"
            )
        names = kept
    opened = open_sources(names, root=root)
    source: ImageSource = opened
    first = None  # image that is not there
    if store.segments:
        source = rows = images_of_store(store, opened, kept, [os.fspath(name) for name in names])
        first = next(iter(rows.gone.values()), None)
        is_same = first is None
    else:
        is_same = opened.fingerprint() == store.manifest.source["fingerprint"]
    if not is_same:
        lost = "" if first is None else f"; {one_line(first)} is not among them"
        if own_names:
            made_of = _spell_names(kept) or "a source without a name"
            raise ValueError(
                f"the images of {_spell_names(names)} are not those of {store.path}, or have changed: there are "
                f"{len(opened):,}, and the store has {len(store):,} rows of {made_of}{lost}"
            )
        raise ValueError(f"the images of {store.path} have changed: {_spell_names(kept)}{lost}")
    changed = stale_rows(store, source) if verify else []
    if changed:
        raise ValueError(
            f"{changed[0]}; {remedy_of_change(store)}, or pass verify=False if only the times of the files have changed"
        )
    return source


def remedy_of_change(store: "FeatureStore") -> str:
    """Returns what to do about rows whose images have changed."""
    options = " with --append --repair" if store.segments else ""
    return f"run the same extract command{options} to extract them again"


def names_of_source(store: "FeatureStore") -> list[str]:
    """Returns the names that the images of all segments of a store were opened by, each once."""
    manifests = (store.manifest, *store.segments)
    return list(dict.fromkeys(name for manifest in manifests for name in manifest.source["names"]))


def images_of_store(
    store: "FeatureStore", source: ImageSource, kept: Sequence[str] = (), names: Sequence[str] = ()
) -> ImagesOfRows:
    """Returns the images of the rows of a store, which a source has in any order.

    Args:
        store: The store.
        source: The images.
        kept: Names of the source in the manifests.
        names: Names that the source was opened by now: as many as `kept`, if images have been moved.

    Raises:
        ValueError: if the index is damaged.
    """
    moves = []
    if len(kept) == len(names):
        moves = list(zip(map(printable, kept), map(printable, map(absolute, names)), strict=True))
    recorded = [record.image for record in store.records()]
    keys = [moved(key_of(name, kept), moves) for name in recorded]
    return find_rows(PlacesByName(source), source, recorded, keys, 0)


def moved(name: str, moves: Sequence[tuple[str, str]]) -> str:
    """Returns the name of an image after sources have been moved: each move is the old and the new name of one."""
    for old, new in moves:
        if name == old or name.startswith((old + os.sep, old + ROW)):
            return new + name[len(old) :]
        if Path(old).suffix and not os.path.isdir(new):  # a list, or an image: others lie beside it
            folder = os.path.dirname(old) + os.sep
            if name.startswith(folder):
                return os.path.join(os.path.dirname(new), name[len(folder) :])
    return name


def _spell_names(names: Sequence[str | os.PathLike[str]]) -> str:
    each = [names] if isinstance(names, str | os.PathLike) else names
    return one_line(mask_secrets(", ".join(map(str, each))))


def stale_rows(store: "FeatureStore", source: ImageSource | None = None) -> list[str]:
    """Returns one line for each shard whose images are not those that it was extracted from.

    Args:
        store: The store.
        source: Source of the images. None looks at the files that the index names, without opening them; shards with
            other images, and those of earlier releases, are passed over. Of a store with segments, a source may have
            its images in any order.
    """
    if source is not None and store.segments and not isinstance(source, ImagesOfRows):
        source = images_of_store(store, source)
    lines = []
    numbers = range(store.num_shards)
    for number in track(numbers, "looking for images that changed", unit="shard", enabled=len(store) >= MANY_ROWS):
        rows = store.rows_of_shard(number)
        try:
            kept = store._header(number).stamps
            if kept is None:
                continue
            now = _stamps_of_files(store, rows) if source is None else stamps_sha256(source, rows)
        except ValueError:  # damaged: `verify` and reading say it
            continue
        if now is not None and now != kept:
            lines.append(f"{spell_rows(rows)} of {store.path} have features of images that have changed since")
    return lines


def _stamps_of_files(store: "FeatureStore", rows: range) -> str | None:
    """Returns the SHA-256 of the stamps of files that the index names, or None if a name is not that of a file."""
    digest = hashlib.sha256()
    for record in store.records(rows):
        path = file_name(record.image)
        if not os.path.isabs(path):
            return None
        digest.update(file_stamp(path).encode() + b"\0")
    return digest.hexdigest()
