"""Opening streams by the names that users write after "stream:", and streams or sources by either kind of name."""

import os
from collections.abc import Sequence

from stellar_hub.data.sources.combined import JoinedSources
from stellar_hub.data.sources.open_sources import check_root, expand_pattern, expand_range, open_sources
from stellar_hub.data.sources.table import TABLE_PREFIX
from stellar_hub.data.streams.image_streams import ImageStream, TableStream, TarStream, file_name, shown_address

STREAM_PREFIX = "stream:"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_images(
    names: Sequence[str], repeats: Sequence[int] = (), root: str | os.PathLike[str] | None = None
) -> JoinedSources | ImageStream:
    """Opens a stream if names begin with "stream:", and sources otherwise; see `open_stream` and `open_sources`.

    Args:
        names: Names of streams or of sources, at least one.
        repeats: Number of times that each source occurs. Streams cannot be repeated.
        root: Folder below which tables may name files, and links in folders may end; see `open_source`.

    Raises:
        OSError: if something does not exist or cannot be read.
        ValueError: if streams and sources are mixed, or `repeats` is given for streams.
        ImportError: if a table is named and `datasets` is not installed.
    """
    if isinstance(names, str) or not any(str(name).startswith(STREAM_PREFIX) for name in names):
        return open_sources(names, repeats, root)
    if repeats:
        raise ValueError(f"streams cannot be repeated, got repeats {list(repeats)}; name copies of the shards instead")
    return open_stream(names, root)


def open_stream(names: Sequence[str], root: str | os.PathLike[str] | None = None) -> ImageStream:
    """Opens a stream of images. Each name begins with "stream:".

    - `stream:shards/*.tar`, `stream:https://host/shard-{000..127}.tar.gz`: tar files, compressed or not;
    - `stream:part-*.parquet`, `stream:hub:OWNER/NAME:SPLIT`: tables, read row by row.

    Args:
        names: Names of streams, at least one.
        root: Folder below which tables may name files. None: tables give the bytes in them alone.

    Raises:
        FileNotFoundError: if no file matches a pattern.
        ValueError: if no name is given, some names do not begin with "stream:", or the kind is unknown.
        ImportError: if it is a table and `datasets` is not installed.
    """
    if isinstance(names, str):
        raise ValueError(f"streams must be a list of names, got {shown_address(names)!r}")
    if not names or not all(name.startswith(STREAM_PREFIX) for name in names):
        raise ValueError(
            f'streams and sources cannot be mixed: all names or none must begin with "{STREAM_PREFIX}", '
            f"got {[shown_address(str(name)) for name in names]}"
        )
    check_root(root)
    plain = [name.removeprefix(STREAM_PREFIX) for name in names]
    if all(file_name(name).lower().endswith(TAR_SUFFIXES) for name in plain):
        return TarStream([path for name in plain for path in _expand(name)])
    if len(plain) == 1 and plain[0].startswith(TABLE_PREFIX):
        return TableStream.from_hub(plain[0].removeprefix(TABLE_PREFIX), root=root)
    if all(file_name(name).lower().endswith(".parquet") for name in plain):
        return TableStream.from_parquet([path for name in plain for path in _expand(name)], root=root)
    raise ValueError(
        f"{[shown_address(name) for name in names]} cannot be read as a stream; "
        f"name tar files ({', '.join(TAR_SUFFIXES)}), parquet files, or one "
        f"{STREAM_PREFIX}{TABLE_PREFIX}OWNER/NAME"
    )


def _expand(pattern: str) -> list[str]:
    """Returns the files of a pattern. In addresses of another host only "{000..127}" is expanded."""
    if "://" not in pattern:
        return expand_pattern(pattern)
    return expand_range(pattern)
