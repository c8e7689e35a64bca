"""From what users write, a folder, a list, tars or a table, to a source of images."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.data.sources.combined import JoinedSources
from stellar_hub.data.sources.files import ImageFolder, ImageList
from stellar_hub.data.sources.image_source import StoredSource
from stellar_hub.data.sources.table import TABLE_PREFIX, ImageTable, is_saved_table
from stellar_hub.data.sources.tar_shards import TarShards

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 1_000_000


def open_sources(names: Sequence[str | os.PathLike[str]], repeats: Sequence[int] = ()) -> JoinedSources:
    """Open sources of images and put them together.

    Args:
        names: At least one; see `open_source` for how they are written.
        repeats: How often each one's images come, at least 1 each; once each if empty.

    Raises:
        OSError: if something does not exist or cannot be read.
        ValueError: if nothing is named, something has no images, or `repeats` does not fit.
        ImportError: if a table is named and `datasets` is not installed.
    """
    if isinstance(names, str | os.PathLike):
        raise ValueError(f"sources must be a list, got {str(names)!r}; write [{str(names)!r}]")
    return JoinedSources([open_source(name) for name in names], repeats)


def open_source(name: str | os.PathLike[str]) -> StoredSource:
    """Open a source of images.

    - a folder: the images below it, nested or not; one that `datasets` saved is a table;
    - `NAME.txt`: a list, one path per line;
    - `shard.tar`, `shards/*.tar`, `shard-{0000..0127}.tar`: tar files, as WebDataset writes them;
    - `NAME.parquet`, `part-*.parquet`: tables with a column of images;
    - `hub:OWNER/NAME` or `hub:OWNER/NAME:SPLIT`: a data set of the Hub, its "train" split unless one is named.

    Raises:
        OSError: if it does not exist or cannot be read.
        ValueError: if it has no images, or is of another kind.
        ImportError: if it is a table and `datasets` is not installed.
    """
    text = os.fspath(name)
    if text.startswith(TABLE_PREFIX):
        return ImageTable.from_hub(text.removeprefix(TABLE_PREFIX))
    if Path(text).is_dir():
        return ImageTable.from_disk(text) if is_saved_table(text) else ImageFolder.scan(text)
    suffix = Path(text).suffix.lower()
    if suffix == ".txt":
        return ImageList.read(text)
    if suffix == ".tar":
        return TarShards.scan(expand(text))
    if suffix == ".parquet":
        return ImageTable.from_parquet(expand(text))
    if not Path(text).exists():
        raise FileNotFoundError(f"no such folder: {text}")
    raise ValueError(
        f"{text} is no source of images: name a folder, a list (.txt), tar files (.tar), tables (.parquet), "
        f"or {TABLE_PREFIX}OWNER/NAME"
    )


def expand(pattern: str) -> list[str]:
    """The files a pattern with "{000..127}", "*" or "?" stands for, sorted; a plain name stands for itself.

    Raises:
        FileNotFoundError: if no file fits.
        ValueError: if a range runs backwards or is very long.
    """
    if RANGE.search(pattern):
        return [name for text in spell_range(pattern) for name in expand(text)]
    if os.path.exists(pattern) or not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise FileNotFoundError(f"no file fits {pattern}")
    return found


def spell_range(pattern: str) -> list[str]:
    """The names that a pattern with "{000..127}" stands for, whether they exist or not.

    Raises:
        ValueError: if a range runs backwards or is very long.
    """
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MAX_SHARDS:
        raise ValueError(f"{match[0]} in {pattern} must go from a number to a larger one")
    spelled = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
    return [name for text in spelled for name in spell_range(pattern[: match.start()] + text + pattern[match.end() :])]
