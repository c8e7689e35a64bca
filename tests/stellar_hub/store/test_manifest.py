import dataclasses
import json
from pathlib import Path

import pytest

from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.manifest import Manifest, differences


def test_manifest__comes_back_as_it_was(shared_store: FeatureStore, tmp_path: Path) -> None:
    shared_store.manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == shared_store.manifest
    assert Manifest.read(tmp_path).plan == shared_store.manifest.plan


def test_plan__does_not_depend_on_counts_or_place(shared_store: FeatureStore) -> None:
    manifest = shared_store.manifest
    moved = dataclasses.replace(manifest, counts=None, source=dict(manifest.source) | {"names": ["elsewhere"]})
    assert moved.plan == manifest.plan
    assert differences(manifest, moved) == []
    other = dataclasses.replace(manifest, shard_rows=9)
    assert other.plan != manifest.plan
    assert differences(manifest, other) == ["shard_rows: 8 in the store, 9 now"]


def test_manifest__has_no_time_in_it(shared_store: FeatureStore) -> None:
    keys = json.dumps(json.loads((shared_store.path / "manifest.json").read_text()))
    assert not any(word in keys for word in ("time", "date", "seconds", "host"))


def test_unknown_format__is_refused(shared_store: FeatureStore, tmp_path: Path) -> None:
    dataclasses.replace(shared_store.manifest, format=2).write(tmp_path)
    with pytest.raises(ValueError, match="is of format 2, this version of stellar_hub reads 1"):
        Manifest.read(tmp_path)
