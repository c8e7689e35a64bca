"""The images that a store was made from: opening them again, and noticing that they have changed."""

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stellar_hub.data.sources import ImageSource, open_sources
from stellar_hub.data.sources.files import file_stamp
from stellar_hub.features.rows import file_name
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.progress import track
from stellar_hub.store.files import header_of, open_shard
from stellar_hub.store.manifest import shard_path, spell_rows
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
    kept = store.manifest.source["names"]
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
    source = open_sources(names, root=root)
    if source.fingerprint() != store.manifest.source["fingerprint"]:
        if own_names:
            made_of = _spell_names(kept) or "a source without a name"
            raise ValueError(
                f"the images of {_spell_names(names)} are not those of {store.path}, or have changed: there are "
                f"{len(source):,}, and the store has {len(store):,} rows of {made_of}"
            )
        raise ValueError(f"the images of {store.path} have changed: {_spell_names(kept)}")
    changed = stale_rows(store, source) if verify else []
    if changed:
        raise ValueError(
            f"{changed[0]}; run the same extract command to extract them again, or pass verify=False if only the times "
            "of the files have changed"
        )
    return source


def _spell_names(names: Sequence[str | os.PathLike[str]]) -> str:
    each = [names] if isinstance(names, str | os.PathLike) else names
    return one_line(mask_secrets(", ".join(map(str, each))))


def stale_rows(store: "FeatureStore", source: ImageSource | None = None) -> list[str]:
    """Returns one line for each shard whose images are not those that it was extracted from.

    Args:
        store: The store.
        source: Source of the images. None looks at the files that the index names, without opening them; shards with
            other images, and those of earlier releases, are passed over.
    """
    lines = []
    numbers = range(store.manifest.num_shards)
    for number in track(numbers, "looking for images that changed", unit="shard", enabled=len(store) >= MANY_ROWS):
        rows = store.manifest.rows_of_shard(number)
        try:
            kept = header_of(open_shard(shard_path(store.path, number), rows, store.manifest.plan)).stamps
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
