"""The members of a tar file, found by headers of which every number is checked before it is used.

The module `tarfile` takes the first block of zeros or a damaged header for the end, and believes the sizes that it
reads. Here a damaged place is recorded, and reading goes on at the next header.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line

BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20  # bytes that are held when many are passed over
_MAX_PART = 2**24  # bytes that are asked for at once
_ZEROS = bytes(_CHUNK)
MAX_ZEROS = 2**31  # bytes in one place that are read; a file with holes can have terabytes of them for nothing
_MAGIC, _MAGIC_PLACE = b"ustar", 257
_RECORDS = (20, 64, 128, 256, 512, 1024, 2048)  # numbers of blocks to which programs fill up the end of an archive
_MAX_TRIES = 100_000  # places that look like a header, in damaged bytes
_MAX_TOLD = 5  # damaged places of a file that are told in words


@dataclass
class Damage:
    """The places of a file that could not be read, of which the first few are kept in words.

    Attributes:
        places: What is wrong with the first places.
        count: Number of all places.
    """

    places: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: object) -> None:
        """Records a damaged place."""
        self.count += 1
        if self.count <= _MAX_TOLD:
            self.places.append(one_line(text))

    def __str__(self) -> str:
        more = self.count - len(self.places)
        return "; ".join([*self.places, *([f"and {more} more"] if more else [])])


class Member(NamedTuple):
    """A member of a tar.

    Attributes:
        name: Name of the member.
        kind: "file", "folder", "link" (hard), "symlink" or "other".
        target: Name that a link leads to.
        offset: First byte of the content in the archive.
        size: Number of bytes of the content.
        is_sparse: Whether the bytes are only the parts of a file that are not zero.
    """

    name: str
    kind: str
    target: str
    offset: int
    size: int
    is_sparse: bool


class ForwardReader:
    """Bytes that are read from the beginning on. A few that were read can be put back.

    Args:
        read: Function that returns up to as many bytes as it is asked for, and none at the end only.
        seek: Function that moves to a position; None where bytes can only be read.
        size: Number of all bytes; None where it is unknown.

    Attributes:
        position: Number of bytes before the next one.
    """

    def __init__(
        self, read: Callable[[int], bytes], seek: Callable[[int], object] | None = None, size: int | None = None
    ):
        self._read = read
        self._seek = seek
        self.size = size
        self.position = 0
        self._returned = b""

    def read(self, size: int) -> bytes:
        """Returns the next bytes, fewer only at the end."""
        parts, missing = [self._returned[:size]], size - len(self._returned[:size])
        self._returned = self._returned[size:]
        while missing and (part := self._read(min(missing, _MAX_PART))):
            parts.append(part)
            missing -= len(part)
        self.position += size - missing
        return b"".join(parts)

    def put_back(self, data: bytes) -> None:
        """Puts back the bytes that were read last."""
        self.position -= len(data)
        self._returned = data + self._returned

    def skip(self, size: int) -> bool:
        """Passes over bytes and returns whether all of them are there."""
        if self._seek is not None and self.size is not None:
            end = min(self.position + size, self.size)
            complete = self.position + size <= self.size
            self._seek(end)
            self.position, self._returned = end, b""
            return complete
        while size and (part := self.read(min(size, _CHUNK))):
            size -= len(part)
        return not size

    def skip_zeros(self) -> bool:
        """Passes over blocks of zeros, and returns whether they end within `MAX_ZEROS`."""
        end = self.position + MAX_ZEROS
        while (chunk := self.read(_CHUNK)) == _ZEROS:
            if self.position >= end:
                return False
        self.put_back(chunk[(len(chunk) - len(chunk.lstrip(b"\0"))) // BLOCK * BLOCK :])
        return True


def walk_members(reader: ForwardReader, damage: Damage) -> Iterator[Member]:
    """Yields the members of a tar, in order, and records what cannot be read.

    The caller may read the content of a member from `reader` before it takes the next member. Tars that were joined end
    to end are read as one. After a damaged place, the members from the next header on follow.
    """
    extended = _Extended()
    for info, block in _Headers(reader, damage):
        if info is None:
            extended = _Extended()
        elif info.type in _EXTENSIONS:
            if not extended.take(info, reader, damage):
                damage.add("it is cut short in a header")
                return
        else:
            member = extended.member(info, block, reader)
            extended = _Extended()
            # Links and folders have no content, whatever they declare.
            stored = member.size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
            end = member.offset + stored
            if reader.size is not None and end > reader.size:
                damage.add(f"{member.name} is cut short")
                return
            yield member
            if not reader.skip(end - reader.position):
                damage.add(f"{member.name} is cut short")
                return
            reader.skip(-stored % BLOCK)


class _Headers:
    """The headers of a tar as `(header, block)`; the header is None where a damaged place was passed over.

    What a header describes must be read before the next one is taken.
    """

    def __init__(self, reader: ForwardReader, damage: Damage):
        self._reader = reader
        self._damage = damage
        self._archive_start = 0  # of the current one of several joined archives
        self._count = 0

    def __iter__(self) -> Iterator[tuple[tarfile.TarInfo | None, bytes]]:
        zeros: int | None = None  # where the zeros before this block begin
        while block := self._reader.read(BLOCK):
            start = self._reader.position - len(block)
            if not any(block):
                if not self._reader.skip_zeros():
                    self._damage.add(f"it has more than {MAX_ZEROS:,} bytes of zeros from byte {start} on")
                    return
                zeros = start
                continue
            if zeros is not None:
                self._end_archive(zeros, start)
                zeros = None
            info = _parse(block)
            if info is None:
                self._damage.add(
                    f"it is damaged at byte {start}" if len(block) == BLOCK else "it is cut short in a header"
                )
                if not self._find_next(block):
                    return
            elif not self._is_allowed():
                return
            yield info, block
        self._end_file(zeros)

    def _find_next(self, damaged: bytes) -> bool:
        found = _find_header(self._reader, damaged)
        if (self._reader.position - self._archive_start) % BLOCK:  # of an archive that begins inside the damage
            self._archive_start = self._reader.position
        return found

    def _is_allowed(self) -> bool:
        self._count += 1
        try:
            check_limit("archive_members", self._count, "the archive")
        except ValueError as error:
            self._damage.add(error)
            return False
        return True

    def _end_archive(self, zeros: int, start: int) -> None:
        """Notes that a header follows zeros: another archive was joined, or content was lost."""
        if not _is_padded_end(zeros - self._archive_start, start - self._archive_start):
            self._damage.add(f"it has zeros from byte {zeros} to {start}, so members may be missing")
        self._archive_start = start

    def _end_file(self, zeros: int | None) -> None:
        end = self._reader.position
        if zeros is None:
            self._damage.add("it has no end mark, so images may be missing" if end else "it is empty")
        elif not _is_end(zeros - self._archive_start, end - self._archive_start):
            self._damage.add(f"it has zeros from byte {zeros} to its end, so members may be missing")


_KINDS = {tarfile.LNKTYPE: "link", tarfile.SYMTYPE: "symlink", tarfile.DIRTYPE: "folder"}
_EXTENSIONS = (b"L", b"K", b"x", b"X", b"g")  # headers that describe the next member


class _Extended:
    """What the headers before a member's own say about it: names that are longer than a header's field, and sizes."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.target: str | None = None
        self.size: int | None = None
        self.is_sparse = False

    def take(self, info: tarfile.TarInfo, reader: ForwardReader, damage: Damage) -> bool:
        """Reads the content of such a header and returns whether it is complete."""
        try:
            check_limit("header_bytes", info.size, f"the header at byte {reader.position - BLOCK}")
        except ValueError as error:
            damage.add(error)
            return reader.skip(info.size + -info.size % BLOCK)
        content = reader.read(info.size + -info.size % BLOCK)
        if len(content) < info.size:
            return False
        content = content[: info.size]
        if info.type == b"L":
            self.name = _text(content)
        elif info.type == b"K":
            self.target = _text(content)
        elif info.type != b"g":  # global headers have comments
            try:
                self._take_records(content)
            except ValueError:
                damage.add(f"the header before byte {reader.position} is damaged")
        return True

    def _take_records(self, content: bytes) -> None:
        """Reads the records of a pax header, each of the form "LENGTH KEY=VALUE".

        Raises:
            ValueError: if a record is not of this form.
        """
        while content.strip(b"\0"):
            digits = content[:20].partition(b" ")[0]
            length = _whole_number(digits)
            record, content = content[:length], content[length:]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if len(record) < length or not equals or record[-1:] != b"\n":
                raise ValueError("a record is damaged")
            if key == b"path":
                self.name = _text(value).rstrip("/")
            elif key == b"linkpath":
                self.target = _text(value)
            elif key == b"size":
                self.size = _whole_number(value)
            elif key == b"GNU.sparse.name":
                self.name = _text(value)
            self.is_sparse |= key.startswith(b"GNU.sparse.")

    def member(self, info: tarfile.TarInfo, block: bytes, reader: ForwardReader) -> Member:
        """Returns the member of a header, with what is known from the headers before it."""
        kind = _KINDS.get(info.type, "other")
        is_sparse = self.is_sparse or info.type == tarfile.GNUTYPE_SPARSE
        more = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:
            following = reader.read(BLOCK)
            more = len(following) == BLOCK and following[504]
        name = info.name if self.name is None else self.name
        if info.isreg() and not name.endswith("/"):
            kind = "file"
        size = info.size if self.size is None else self.size
        return Member(name, kind, self.target or info.linkname, reader.position, size, is_sparse)


def _parse(block: bytes) -> tarfile.TarInfo | None:
    """Returns the header in a block, or None if the block is no header."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    return info if info.size >= 0 else None


def looks_like_tar(block: bytes) -> bool:
    """Returns whether a file that begins with this block is a tar, perhaps with a damaged first header."""
    return _parse(block) is not None or block[_MAGIC_PLACE:].startswith(_MAGIC)


def _find_header(reader: ForwardReader, damaged: bytes) -> bool:
    """Moves to the next header, wherever it begins, and returns whether there is one."""
    window, first, num_tries = damaged, 1, 0
    while num_tries < _MAX_TRIES:
        place = window.find(_MAGIC, first + _MAGIC_PLACE)
        while 0 <= place <= len(window) - (BLOCK - _MAGIC_PLACE):
            begin, num_tries = place - _MAGIC_PLACE, num_tries + 1
            if _parse(window[begin : begin + BLOCK]) is not None:
                reader.put_back(window[begin:])
                return True
            place = window.find(_MAGIC, place + 1)
        kept = window[max(first, len(window) - BLOCK) :]
        chunk = reader.read(_CHUNK)
        if not chunk:
            return False
        window, first = kept + chunk, 0
    return False


def _is_padded_end(start: int, end: int) -> bool:
    """Returns whether zeros are the end of an archive that another one was joined to, and not lost content.

    Args:
        start: First byte of the zeros in their archive.
        end: First byte after them, at which the next header is.
    """
    return 2 <= (end - start) // BLOCK <= _RECORDS[0] + 1 and end % (_RECORDS[0] * BLOCK) == 0


def _is_end(start: int, end: int) -> bool:
    """Returns whether zeros up to the end of a file are as many as programs write there."""
    blocks, total = -(-(end - start) // BLOCK), end // BLOCK
    return blocks <= _RECORDS[0] + 1 or any(total % record == 0 and blocks <= record + 1 for record in _RECORDS)


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _whole_number(digits: bytes) -> int:
    """Returns the number that digits write.

    Raises:
        ValueError: if they are no number of 1 to 19 digits.
    """
    if not digits.isdigit() or len(digits) > 19:
        raise ValueError("a number is damaged")
    return int(digits)
