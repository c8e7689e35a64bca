"""What a stream of images is, and the two kinds: tar files, through fsspec (http, s3, hf, ...), and tables."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import fsspec

from stellar_hub.data.sources.image_source import EncodedImage
from stellar_hub.data.sources.table import HubDataset, file_of_cell, given, image_of_cell, select_image_column
from stellar_hub.data.sources.table_files import MAX_BATCH_ROWS, check_parquet, datasets_library, reading_table
from stellar_hub.data.sources.tar_images import (
    Links,
    PassedOver,
    choose_by_key,
    is_image_file,
    linked_images,
    refusal_of_size,
)
from stellar_hub.data.sources.tar_members import Damage, ForwardReader, Member, walk_members
from stellar_hub.data.streams.decompression import MAGIC_LENGTH, is_compressed, open_decompressed
from stellar_hub.extras import require
from stellar_hub.modeling.image_loading import NOT_THE_IMAGES_FAULT, is_fault_of_machine, is_passing_fault
from stellar_hub.modeling.safe_paths import read_bounded, regular_file
from stellar_hub.modeling.safe_text import mask_secrets, one_line

logger = logging.getLogger(__name__)


class DamagedShardError(ValueError):
    """A part of a shard cannot be read, or the shard has no images. The images that were read remain valid."""


class ImageStream(Protocol):
    """Shards of images, each read from its beginning on. The number of images is not known in advance."""

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards for messages. A shard's number is its index here."""
        ...

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard, in the same order each time.

        Raises:
            DamagedShardError: after the last image, if a part of the shard could not be read, or it has no image. The
                message names it.
            OSError: if the shard cannot be reached. The message names it without user, password and query.
        """
        ...

    def fingerprint(self) -> str:
        """Returns the SHA-256 of what identifies the shards. Their content is not read."""
        ...


class TarStream:
    """The images of tar files, compressed or not, as an `ImageStream`.

    Args:
        paths: Paths or addresses, such as "shard-000.tar", "https://host/shard-000.tar.gz" or
            "hf://datasets/owner/name/shard-000.tar".

    Attributes:
        shards: Names of the shards for messages: the paths, without user, password and query in addresses.

    Raises:
        ValueError: if no path is given, or one is given twice.
    """

    def __init__(self, paths: Sequence[str]):
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        self._addresses = tuple(paths)
        self.shards = tuple(shown_address(path) for path in paths)
        self._noted: set[str] = set()
        doubled = [self.shards[paths.index(path)] for path, times in Counter(paths).items() if times > 1]
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled)}")

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard and skips its other members; see `ImageStream.read`.

        They come in the order of the file. Those that are links inside the tar follow after them, and the shard is read
        a second time for them.
        """
        damage, passed_over, links = Damage(), PassedOver(), Links()
        num_images = 0
        for image in choose_by_key(self._files(shard, damage, passed_over, links), passed_over):
            num_images += 1
            yield image.content
        for link in self._linked(shard, damage, links, passed_over):
            num_images += 1
            yield link
        self._note(shard, passed_over)
        if not num_images and not damage.count:
            damage.add("; ".join(["it has no images", *passed_over.suffix_notes()]))
        if damage.count:
            raise DamagedShardError(f"{self.shards[shard]}: {damage}")

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the files' names, without their folders and the queries of addresses."""
        return _fingerprint("tar files", [file_name(address) for address in self._addresses])

    def _files(self, shard: int, damage: Damage, passed_over: PassedOver, links: Links) -> Iterator["_TarImage"]:
        """Reads the images that are files, and records damage, links and what is passed over."""
        address = self._addresses[shard]
        with _opened(address) as file:
            try:
                reader = _reader_of(file, address)
                for member in walk_members(reader, damage):
                    links.add(member)
                    if is_image_file(member, passed_over) and (image := _read_image(address, member, reader)):
                        yield image
            except Exception as error:  # fsspec and the decompressors raise different ones
                _raise_fault_of_machine(error)
                damage.add(_shown_error(error, address))

    def _linked(self, shard: int, damage: Damage, links: Links, passed_over: PassedOver) -> Iterator[EncodedImage]:
        """Reads the images that are links. The first reading of the shard has recorded the damage of its file."""
        address = self._addresses[shard]
        if not (wanted := links.of_files()):
            return
        with _opened(address) as file:
            try:
                reader = _reader_of(file, address)
                for member, names in linked_images(walk_members(reader, Damage()), wanted, passed_over):
                    if image := _read_image(address, member, reader):
                        for name in names:
                            yield EncodedImage(f"{file_name(address)}/{name}", image.content.data, image.content.error)
            except Exception as error:
                _raise_fault_of_machine(error)
                if not damage.count:  # else the first reading has recorded the same
                    damage.add(_shown_error(error, address))

    def _note(self, shard: int, passed_over: PassedOver) -> None:
        """Says what was passed over: each kind once, because a run reads many shards many times."""
        for kind, note in passed_over.counted_notes().items():
            if kind not in self._noted:
                self._noted.add(kind)
                logger.warning("%s has %s (not said of later shards)", self.shards[shard], note)


class _TarImage(NamedTuple):
    """An image of a tar with the name and the size that the tar declares."""

    name: str
    size: int
    content: EncodedImage


def _read_image(address: str, member: Member, reader: ForwardReader) -> _TarImage | None:
    """Reads a member; None if the file ends before it does."""
    name = f"{file_name(address)}/{member.name}"
    if error := refusal_of_size(member.size, name):
        return _TarImage(member.name, 0, EncodedImage(name, b"", error))
    data = reader.read(member.size)
    return _TarImage(member.name, member.size, EncodedImage(name, data)) if len(data) == member.size else None


def _reader_of(file: Any, address: str) -> ForwardReader:
    """Returns a reader of a tar, compressed or not. In a plain file of this machine it passes over what is not read."""
    if "://" not in address:
        start = file.read(MAGIC_LENGTH)
        file.seek(0)
        if not is_compressed(start):
            return ForwardReader(file.read, file.seek, os.fstat(file.fileno()).st_size)
    return ForwardReader(open_decompressed(file.read, shown_address(address)))


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    """Opens a path or an address for reading.

    Raises:
        ImportError: if a package that opens such addresses is not installed.
        OSError: if it cannot be reached. The message names it without secrets.
        DamagedShardError: if it is a pipe, a device or a socket: a read from them may never end.
    """
    local = address.removeprefix("file://")
    if "://" not in local and os.path.exists(local):
        try:
            regular_file(local)
        except ValueError as error:
            raise DamagedShardError(str(error)) from None
    try:
        opened = fsspec.open(address, "rb")
        file = opened.__enter__()
    except ImportError as error:
        if address.partition("://")[0].endswith(("http", "https")):
            require("aiohttp", "http", "a stream over http")
        raise ImportError(_shown_error(error, address)) from None
    except Exception as error:  # libraries of fsspec raise different ones, and their texts hold the address
        _raise_fault_of_machine(error)
        raise _unreachable(error, address) from None
    try:
        yield file
    finally:
        opened.close()


def _unreachable(error: Exception, address: str) -> OSError:
    """Returns an error of the same number for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"no such file: {shown_address(address)}")
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    shown = kind(f"{shown_address(address)} cannot be opened: {_shown_error(error, address)}")
    shown.errno = getattr(error, "errno", None)
    return shown


def _raise_fault_of_machine(error: Exception) -> None:
    """Raises an error again if no other file could be read either: too many open files, or no memory."""
    if is_fault_of_machine(error):
        raise error


def _shown_error(error: Exception, address: str) -> str:
    text = str(error).replace(address, shown_address(address)) or type(error).__name__
    return one_line(mask_secrets(text))


def shown_address(address: str) -> str:
    """Returns a path, or an address without user, password and what follows "?" or "#"."""
    if "::" in address:  # an address in another one, such as "zip://a.tar::https://user:password@host/b.zip"
        return one_line("::".join(shown_address(part) for part in address.split("::")))
    scheme, separator, rest = address.partition("://")
    if not separator:
        return one_line(address)
    host, slash, path = rest.partition("/")
    host = f"***@{host.rpartition('@')[2]}" if "@" in host else host
    plain = min((host + slash + path).partition("?")[0], (host + slash + path).partition("#")[0], key=len)
    hidden = "?***" if len(plain) < len(host + slash + path) else ""
    return one_line(f"{scheme}://{plain}{hidden}")


def file_name(address: str) -> str:
    """Returns the last part of a path, or of an address without what follows "?" or "#": a signature may change."""
    if "://" in address:
        address = address.partition("?")[0].partition("#")[0]
    return address.rpartition("/")[2]


class TableStream:
    """The images of a table's column as an `ImageStream`; rows are read without a download of the table.

    Make it with `from_hub` or `from_parquet`.

    Args:
        table: A `datasets.IterableDataset`. Its shards are the stream's.
        name: Name of the table for messages.
        column: Column of images. None: the only one there is.
        root: Folder below which cells may name files. None: cells without bytes cannot be read.

    Attributes:
        shards: Names of the shards.

    Raises:
        ValueError: if the column is missing, or there are several columns of images.
    """

    def __init__(self, table: Any, name: str, column: str | None = None, root: str | os.PathLike[str] | None = None):
        with reading_table(name):
            if table.features is None:  # some formats know their columns after the first row only
                table = table._resolve_features()
        self.table, self.column = select_image_column(table, name, column)
        self.roots = tuple(os.path.abspath(each) for each in given(root))
        self.shards = tuple(f"{name}, part {number}" for number in range(self.table.num_shards))

    @classmethod
    def from_hub(
        cls, name: str, column: str | None = None, root: str | os.PathLike[str] | None = None
    ) -> "TableStream":
        """Opens a split of a data set on the Hub. See `HubDataset.parse`."""
        return cls(HubDataset.parse(name).load(streaming=True), name, column, root)

    @classmethod
    def from_parquet(
        cls, files: Sequence[str], column: str | None = None, root: str | os.PathLike[str] | None = None
    ) -> "TableStream":
        """Opens parquet files, a shard each: paths, or addresses that `datasets` reads.

        Raises:
            OSError: if a file cannot be reached. The message names it without user, password and query.
            ValueError: if one is damaged, or declares more than there can be in it.
        """
        parts = [check_parquet(file) for file in files if "://" not in file]
        rows = min([part.batch_rows for part in parts], default=MAX_BATCH_ROWS)
        name = file_name(str(files[0]))
        try:
            with reading_table(name):
                table = datasets_library().load_dataset(
                    "parquet", data_files=list(files), split="train", streaming=True, batch_size=rows
                )
            return cls(table, name, column, root)
        except OSError as error:
            raise _unreachable(error, next((file for file in files if file in str(error)), str(files[0]))) from None

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """Reads the images of a shard, row by row; see `ImageStream.read`."""
        name = self.shards[shard]
        rows = iter(self.table.shard(num_shards=len(self.shards), index=shard))
        number = 0
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # pyarrow, fsspec and datasets raise different ones
                _raise_fault_of_machine(error)
                raise DamagedShardError(f"{name}, row {number}: {_shown_error(error, name)}") from None
            if row is None:
                break
            yield self._image(f"{name}, row {number}", row[self.column])
            number += 1
        if not number:
            raise DamagedShardError(f"{name}: it has no rows")

    def _image(self, name: str, cell: Any) -> EncodedImage:
        """Returns the image of a cell: its bytes, or those of the file that it names, if that is below the root."""
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            return image_of_cell(name, data)
        path = cell.get("path") if isinstance(cell, dict) else None
        image = file_of_cell(name, path if isinstance(path, str) else "", self.roots)
        if isinstance(image, EncodedImage):
            return image
        try:
            return image_of_cell(name, read_bounded(image, "image_bytes", self.roots[0]))
        except (OSError, ValueError) as error:
            _raise_fault_of_machine(error)
            reason = f"{NOT_THE_IMAGES_FAULT if is_passing_fault(error) else ''}{name}: {error}"
            return EncodedImage(name, b"", reason)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the table's name and its number of shards."""
        return _fingerprint("a table", self.shards)


def _fingerprint(kind: str, names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([f"stream of {kind}", *names]).encode(errors="surrogateescape")).hexdigest()
