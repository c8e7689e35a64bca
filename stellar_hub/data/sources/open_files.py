"""The files that this process keeps open to read from their middle, of all sources together."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable

MAX_OPEN_FILES = 64  # systems often allow 1024, and macOS 256, in all


class OpenFiles:
    """Open files by a key; beyond `MAX_OPEN_FILES`, the one that was used longest ago is closed.

    A process that was forked opens its own: its parent closes the others.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._descriptors: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._lock = threading.RLock()  # of one thread at a time, so that no file is closed while it is read
        self._process = os.getpid()

    def read(self, key: tuple[int, int], open_file: Callable[[], int], size: int, offset: int) -> bytes:
        """Returns bytes of a file, fewer only at its end.

        Args:
            key: Number of the source that the file belongs to, and number of the file in it.
            open_file: Function that opens the file and returns its descriptor.
            size: Number of bytes.
            offset: Number of bytes before them.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if key not in self._descriptors:
                while len(self._descriptors) >= MAX_OPEN_FILES:
                    os.close(self._descriptors.popitem(last=False)[1])
                self._descriptors[key] = open_file()
            self._descriptors.move_to_end(key)
            return _read_at(self._descriptors[key], size, offset)

    def close(self, source: int) -> None:
        """Closes the files of a source."""
        if self._process != os.getpid():
            return
        with self._lock:
            for key in [key for key in self._descriptors if key[0] == source]:
                os.close(self._descriptors.pop(key))


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    # `pread` has no position that processes with the same descriptor could disturb.
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more  # a call reads 2 GiB at most
    return data
