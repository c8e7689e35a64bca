import dataclasses
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.features.rows import ImageRecord
from stellar_hub.old_names import old_names
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.files import write_shard
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import (
    Manifest,
    differences,
    remove_unfinished,
    shard_path,
    spell_rows,
    unknown_files,
)


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
    with pytest.raises(ValueError, match=r"format 2.*format 1"):
        Manifest.read(tmp_path)


def test_disk__has_the_names_of_format_1(shared_store: FeatureStore) -> None:
    source = json.loads((shared_store.path / "manifest.json").read_text())["source"]
    assert set(source) == {"fingerprint", "names", old_names("store_format_1")["num_images"]}
    assert shared_store.manifest.source["num_images"] == shared_store.manifest.num_rows == 23


def test_bytes__are_those_of_the_first_release(tmp_path: Path) -> None:
    """Stores that were written before open, resume and verify: no byte may change."""
    source = {"fingerprint": "f", "names": [], "num_images": 3}
    manifest = Manifest("l", {"name": "m"}, {"id": "p"}, {"shapes": {"S": [2]}}, source, 4)
    records = [
        ImageRecord(0, "a.png", (3, 4), (0.5, 0.25, 3.0, 4.0)),
        ImageRecord(1, "b.png", error="cut short"),
        ImageRecord(2, "c.png", (5, 6), (0.0, 0.0, 5.0, 6.0)),
    ]
    manifest.with_counts(2, 1).write(tmp_path)
    tensors = {"S": torch.arange(6.0).view(3, 2).half()}
    write_shard(tmp_path / "shard", range(3), tensors, records, manifest.plan)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert manifest.plan == "22a350b3d7d73a0c23cdfad43eca0ced18e9682264cd62c6c54559e8d41f48b1"
    assert digests == {
        "manifest.json": "efc3ec2949638fdda9650716c1a57303a6991568557f551a10ddae0bc4bcd532",
        "shard": "20333fbad78e1c99056e37d4f73704f82fe5f8d7824f9d813543862aae412d68",
    }


@given(st.integers(1, 10_000), st.integers(1, 999))
def test_shards__hold_each_row_once(num_rows: int, shard_rows: int) -> None:
    manifest = Manifest("", {}, {}, {}, {"num_images": num_rows}, shard_rows)
    shards = [manifest.rows_of_shard(number) for number in range(manifest.num_shards)]
    assert [row for rows in shards for row in rows] == list(range(num_rows))
    assert all(0 < len(rows) <= shard_rows for rows in shards)


def test_shard__has_a_name_that_sorts() -> None:
    assert shard_path(Path("store"), 12).as_posix() == "store/shards/000012.safetensors"


@pytest.mark.parametrize(("rows", "spelled"), [(range(7, 8), "row 7"), (range(8, 16), "rows 8 to 15")])
def test_rows__are_spelled(rows: range, spelled: str) -> None:
    assert spell_rows(rows) == spelled


def test_unfinished_files__are_those_of_one_name(tmp_path: Path) -> None:
    for name in (".index.parquet.0a.part", ".manifest.json.0b.part", "mine.txt", "index.parquet"):
        (tmp_path / name).write_text("")
    assert unknown_files(tmp_path) == ["mine.txt"]
    remove_unfinished(tmp_path / "index.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".manifest.json.0b.part", "index.parquet", "mine.txt"]


FORK = multiprocessing.get_context("fork")


def hold(folder: Path, rank: int, num_processes: int, ready: Any) -> None:
    with StoreLock(folder, rank, num_processes):
        ready.set()
        time.sleep(60)


@contextmanager
def held(folder: Path, rank: int, num_processes: int) -> Iterator[Any]:
    """Another process that holds the lock of a store."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(folder, rank, num_processes, ready))
    process.start()
    try:
        assert ready.wait(60)
        yield process
    finally:
        process.kill()
        process.join()


def test_processes_of_one_launch__share_the_store(tmp_path: Path) -> None:
    with held(tmp_path, 1, 2), StoreLock(tmp_path, 0, 2) as lock, lock.merging():
        pass


@pytest.mark.parametrize(("rank", "num_processes"), [(0, 1), (1, 4)])
def test_second_run__is_refused(tmp_path: Path, rank: int, num_processes: int) -> None:
    with (
        held(tmp_path, 1, 2),
        pytest.raises(BlockingIOError, match="another run"),
        StoreLock(tmp_path, rank, num_processes),
    ):
        raise AssertionError("the lock was given twice")


def test_merging__does_not_end_the_lock(tmp_path: Path) -> None:
    ready = FORK.Event()
    with StoreLock(tmp_path) as lock:
        with lock.merging():
            pass
        second = FORK.Process(target=hold, args=(tmp_path, 0, 1, ready))
        second.start()
        second.join(60)
        assert second.exitcode == 1
        assert not ready.is_set()


def test_kill__frees_the_store(tmp_path: Path) -> None:
    with held(tmp_path, 0, 1) as process:
        process.kill()
        process.join()
        with StoreLock(tmp_path):
            pass
    assert (tmp_path / ".lock").read_bytes() == b""
