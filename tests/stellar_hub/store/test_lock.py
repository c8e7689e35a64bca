"""The lock of a store."""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stellar_hub.store import lock as store_lock
from stellar_hub.store.lock import StoreLock

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


def test_lock__without_fcntl_uses_that_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[tuple[int, int]] = []
    windows = SimpleNamespace(
        LK_NBLCK=2, LK_UNLCK=0, locking=lambda descriptor, mode, count: locked.append((mode, count))
    )
    monkeypatch.setattr(store_lock, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with StoreLock(tmp_path, 0, 2) as lock, lock.merging():
        pass
    assert locked == [(2, 1), (2, 1), (0, 1)]
