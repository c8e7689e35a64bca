"""Tar files read from beginning to end, compressed or not, from a disk or through fsspec (http, s3, hf, ...)."""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

import fsspec

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.sources.tar_shards import is_image
from stellar_hub.data.streams.image_stream import DamagedShardError, fingerprint_of_names

# Of tarfile's errors these mean damage where it silently stops; the one it knows for an end is `EOFHeaderError`.
NO_PROPER_END = ("InvalidHeaderError", "TruncatedHeaderError", "EmptyHeaderError")
UNREADABLE = (tarfile.TarError, EOFError, OSError)


class TarStream:
    """The images of tar files.

    Args:
        paths: Paths or addresses, such as "shard-000.tar", "https://host/shard-000.tar.gz" or
            "hf://datasets/owner/name/shard-000.tar".

    Attributes:
        shards: The same.

    Raises:
        ValueError: if none is given, or one is given twice.
    """

    def __init__(self, paths: Sequence[str]):
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        doubled = [path for path, times in Counter(paths).items() if times > 1]
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled)}")
        self.shards = tuple(paths)

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """See `ImageStream`; members that are no images are passed over."""
        path = self.shards[shard]
        name = path.rpartition("/")[2]
        with fsspec.open(path, "rb") as file:
            try:
                for member, archive in regular_members(file):
                    if is_image(member.name):
                        content: Any = archive.extractfile(member)
                        yield EncodedImage(f"{name}/{member.name}", content.read())
            except UNREADABLE as error:
                raise DamagedShardError(f"{path}: {error or type(error).__name__}") from error

    def fingerprint(self) -> str:
        """SHA-256 over the files' names, without their folders: the same wherever they lie."""
        return fingerprint_of_names("tar files", [path.rpartition("/")[2] for path in self.shards])


def regular_members(file: Any) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a tar, one after the other; each must be read before the next is asked for.

    Raises:
        tarfile.TarError: if it is no tar, or damaged.
    """
    headers = HeaderLog()
    # `ignore_zeros` off: an archive's end is its end. tarfile would take a damaged header for one as well.
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=headers.kind(), errors="surrogateescape") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
            if member.isreg():
                yield member, archive
    if type(headers.last).__name__ in NO_PROPER_END:
        raise tarfile.ReadError(f"it has no proper end: {headers.last}")


class HeaderLog:
    """Remembers why tarfile saw the end of an archive, which it does not tell."""

    def __init__(self) -> None:
        self.last: Exception | None = None

    def kind(self) -> type[tarfile.TarInfo]:
        """A `TarInfo` that notes its errors here."""
        log = self

        class LoggedHeader(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
                try:
                    return super().frombuf(buf, encoding, errors)
                except tarfile.HeaderError as error:
                    log.last = error
                    raise

        return LoggedHeader
