"""One extraction at a time in a store; the processes of one launch share it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from stellar_hub.store.layout import LOCK

MAX_PROCESSES = 1 << 20
MERGING = MAX_PROCESSES  # the byte of whoever puts the index together


class StoreLock:
    """A store's lock, held within `with`.

    Each process locks a byte of its own, a process alone all of them: a second run always meets one that is taken. The
    file stays empty. Such locks end with their process, however it ends, and its data workers do not inherit them.

    Args:
        folder: The store's.
        rank: Which process of its launch this is.
        num_processes: How many there are.

    Raises:
        BlockingIOError: on entering, if another run is using the store.
    """

    def __init__(self, folder: Path, rank: int = 0, num_processes: int = 1):
        self.folder = folder
        self.bytes = (MAX_PROCESSES, 0) if num_processes == 1 else (1, rank)  # how many, and the first
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *self.bytes)
        except (BlockingIOError, PermissionError) as error:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"{self.folder} is in use by another run of extract: wait for its end, or name another --output"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Wait for the turn to put the index together."""
        # On the same descriptor: closing another one of the file would end all of this process's locks on it.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, MERGING)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, MERGING)
