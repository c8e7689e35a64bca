"""Compressed files that are read from their beginning on, in bounded memory and up to a limit of their expansion."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from stellar_hub.modeling.limits import check_limit

_CHUNK = 2**16  # compressed bytes that are read at once
_FREE_BYTES = 2**28  # decompressed bytes that the ratio does not count
_MAX_DICTIONARY = 2**28  # bytes of memory that an .xz file may ask for; `xz -9` asks for 65 MB


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """A decompressor of gzip with the interface of those of bzip2 and xz."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_KINDS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(memlimit=_MAX_DICTIONARY),
}
MAGIC_LENGTH = 6
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def is_compressed(start: bytes) -> bool:
    """Returns whether a file that begins with these bytes, at least 6, is compressed."""
    return start.startswith((*_KINDS, _ZSTANDARD))


def open_decompressed(read: Callable[[int], bytes], name: str) -> Callable[[int], bytes]:
    """Returns a function that reads up to so many bytes of a file, decompressed if the file is compressed.

    The function raises EOFError if the compressed file ends early, ValueError if it expands beyond the limit, and
    zlib.error, lzma.LZMAError or OSError if it is damaged.

    Args:
        read: Function that returns up to so many bytes of the file, from its beginning on, and none at its end only.
        name: Name of the file for messages.

    Raises:
        ValueError: if it is compressed in a way that cannot be read.
    """
    start = _read_all(read, b"", MAGIC_LENGTH)
    if start.startswith(_ZSTANDARD):
        raise ValueError("it is compressed with zstandard, which cannot be read: use gzip, bzip2 or xz")
    for magic, kind in _KINDS.items():
        if start.startswith(magic):
            return _Decompressed(read, start, magic, kind, name).read
    return _Prefixed(read, start).read


def _read_all(read: Callable[[int], bytes], data: bytes, size: int) -> bytes:
    """Returns data continued to so many bytes, fewer at the end of the file."""
    while len(data) < size and (part := read(size - len(data))):
        data += part
    return data


class _Prefixed:
    """A file of which the first bytes were read."""

    def __init__(self, read: Callable[[int], bytes], start: bytes):
        self._read = read
        self._start = start

    def read(self, size: int) -> bytes:
        """Returns up to so many bytes."""
        part, self._start = self._start[:size], self._start[size:]
        return part or self._read(size)


class _Decompressed:
    """The content of a compressed file; several that were joined end to end are read as one."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        start: bytes,
        magic: bytes,
        kind: Callable[[], _Decompressor],
        name: str,
    ):
        self._read = read
        self._pending = start  # compressed bytes that the decompressor has not seen
        self._magic = magic
        self._kind = kind
        self._name = name
        self._inner: _Decompressor | None = None  # None between joined files
        self._num_in, self._num_out = len(start), 0

    def read(self, size: int) -> bytes:
        """Returns up to so many bytes, and none at the end only."""
        while self._inner is not None or self._has_next():
            assert self._inner is not None
            data = b""
            if at_end := self._inner.needs_input:
                data, self._pending = self._pending or self._more(), b""
            part = self._inner.decompress(data, size)
            self._count(len(part))
            if self._inner.eof:
                self._pending, self._inner = self._inner.unused_data, None
            elif at_end and not data and not part:
                raise EOFError("the compressed file is cut short")
            if part:
                return part
        return b""

    def _more(self) -> bytes:
        data = self._read(_CHUNK)
        self._num_in += len(data)
        return data

    def _has_next(self) -> bool:
        """Begins the next of several joined files and returns whether there is one. Other bytes are no more content."""
        self._pending = self._pending.lstrip(b"\0")  # files may be filled up with zeros
        while len(self._pending) < MAGIC_LENGTH and (more := self._more()):
            self._pending = (self._pending + more).lstrip(b"\0")
        if not self._pending.startswith(self._magic):
            return False
        self._inner = self._kind()
        return True

    def _count(self, size: int) -> None:
        self._num_out += size
        if self._num_out > _FREE_BYTES:
            check_limit("archive_ratio", (self._num_out - _FREE_BYTES) // max(1, self._num_in), self._name)
