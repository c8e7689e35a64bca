"""From what users write after "stream:" to a stream of images."""

from collections.abc import Sequence

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.data.sources.open_sources import expand, spell_range
from stellar_hub.data.sources.table import TABLE_PREFIX
from stellar_hub.data.streams.image_stream import ImageStream
from stellar_hub.data.streams.table_stream import TableStream
from stellar_hub.data.streams.tar_stream import TarStream

STREAM_PREFIX = "stream:"
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_images(names: Sequence[str], repeats: Sequence[int] = ()) -> JoinedSources | ImageStream:
    """Open what a recipe names: a stream where names begin with "stream:", else sources; see `open_sources`.

    Raises:
        OSError: if something does not exist or cannot be read.
        ValueError: if streams and sources are mixed, or streams are to be repeated.
        ImportError: if a table is named and `datasets` is not installed.
    """
    if isinstance(names, str) or not any(str(name).startswith(STREAM_PREFIX) for name in names):
        return open_sources(names, repeats)
    if repeats:
        raise ValueError(f"streams cannot be repeated, got repeats {list(repeats)}; name a shard's copy instead")
    return open_stream(names)


def open_stream(names: Sequence[str]) -> ImageStream:
    """Open what is to be read as a stream; each name begins with "stream:".

    - `stream:shards/*.tar`, `stream:https://host/shard-{000..127}.tar.gz`: tar files, compressed or not;
    - `stream:part-*.parquet`, `stream:hub:OWNER/NAME:SPLIT`: tables, row by row.

    Raises:
        FileNotFoundError: if nothing fits a pattern.
        ValueError: if nothing is named, some names are no streams, or it is something else.
        ImportError: if it is a table and `datasets` is not installed.
    """
    if not names or not all(name.startswith(STREAM_PREFIX) for name in names):
        raise ValueError(
            f"streams cannot be mixed with sources whose images are reached by number; all or none must begin with "
            f'"{STREAM_PREFIX}", got {list(names)}'
        )
    plain = [name.removeprefix(STREAM_PREFIX) for name in names]
    if all(name.split("?")[0].lower().endswith(TARS) for name in plain):
        return TarStream([path for name in plain for path in addresses(name)])
    if len(plain) == 1 and plain[0].startswith(TABLE_PREFIX):
        return TableStream.from_hub(plain[0].removeprefix(TABLE_PREFIX))
    if all(name.lower().endswith(".parquet") for name in plain):
        return TableStream.from_parquet([path for name in plain for path in addresses(name)])
    raise ValueError(
        f"{list(names)} cannot be read as a stream: name tar files ({', '.join(TARS)}), parquet files, or one "
        f"{STREAM_PREFIX}{TABLE_PREFIX}OWNER/NAME"
    )


def addresses(pattern: str) -> list[str]:
    """The files a pattern stands for; in addresses of another host only "{000..127}" is spelled out."""
    return spell_range(pattern) if "://" in pattern else expand(pattern)
