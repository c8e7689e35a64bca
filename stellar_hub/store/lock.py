"""The lock of a store, which keeps two runs from writing into it at once."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from stellar_hub.store.manifest import LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SECONDS_BETWEEN_TRIES = 0.05
_MAX_PROCESSES = 1 << 20
_MERGING = _MAX_PROCESSES  # the byte of the process that writes the index


class StoreLock:
    """The lock of a store, held inside `with`.

    Each process of a launch locks its own byte of a file, and a single process locks all bytes: a second run always
    finds a locked byte. The file stays empty. Such locks end with their process, however it ends, and its data workers
    do not inherit them.

    Args:
        folder: Folder of the store.
        rank: Number of this process in its launch.
        num_processes: Number of processes in the launch.

    Raises:
        BlockingIOError: on entering, if another run uses the store.
    """

    def __init__(self, folder: Path, rank: int = 0, num_processes: int = 1):
        self.folder = folder
        self.bytes = (_MAX_PROCESSES, 0) if num_processes == 1 else (1, rank)  # how many, and the first
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._descriptor, *self.bytes)
        except (BlockingIOError, PermissionError) as error:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"another run uses the store {self.folder}: wait until it ends, or name another folder"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Waits until no other process writes the index, and keeps others from it inside the block."""
        # The same descriptor: closing another one of this file would end all locks of this process on it.
        while True:
            try:
                _lock(self._descriptor, 1, _MERGING)
                break
            except (BlockingIOError, PermissionError):
                time.sleep(SECONDS_BETWEEN_TRIES)
        try:
            yield
        finally:
            _unlock(self._descriptor, 1, _MERGING)


def _lock(descriptor: int, count: int, start: int) -> None:
    """Locks some bytes of a file for this process, without waiting.

    Raises:
        BlockingIOError, PermissionError: if another process holds one of them.
    """
    if fcntl is not None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, start)
        return
    windows = import_module("msvcrt")
    os.lseek(descriptor, start, os.SEEK_SET)
    windows.locking(descriptor, windows.LK_NBLCK, count)


def _unlock(descriptor: int, count: int, start: int) -> None:
    if fcntl is not None:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, count, start)
        return
    windows = import_module("msvcrt")
    os.lseek(descriptor, start, os.SEEK_SET)
    windows.locking(descriptor, windows.LK_UNLCK, count)
