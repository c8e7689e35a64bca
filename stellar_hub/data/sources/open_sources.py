"""Opening sources by the names that users write: an image, a folder, a list, tar files or a table."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.data.sources.combined import JoinedSources
from stellar_hub.data.sources.files import ImageFolder
from stellar_hub.data.sources.image_list import ImageList
from stellar_hub.data.sources.image_source import StoredSource
from stellar_hub.data.sources.table import TABLE_PREFIX, ImageTable, is_saved_table
from stellar_hub.data.sources.tar_shards import TarShards
from stellar_hub.modeling.image_loading import IMAGE_SUFFIXES
from stellar_hub.modeling.safe_text import mask_secrets, one_line

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_SHARDS = 1_000_000


def open_sources(
    names: Sequence[str | os.PathLike[str]],
    repeats: Sequence[int] = (),
    root: str | os.PathLike[str] | None = None,
) -> JoinedSources:
    """Opens sources of images and joins them.

    Args:
        names: Names of the sources, at least one. `open_source` says how they are written.
        repeats: Number of times that each source occurs, at least 1 each. Empty: once each.
        root: Folder below which tables may name files, and links in folders may end; see `open_source`.

    Raises:
        OSError: if something does not exist or cannot be read.
        ValueError: if no source is named, a source has no images, or `repeats` does not fit.
        ImportError: if a table is named and `datasets` is not installed.
    """
    if isinstance(names, str | os.PathLike):
        shown = repr(one_line(mask_secrets(str(names))))
        raise ValueError(f"sources must be a list, got {shown}; write [{shown}]")
    return JoinedSources([open_source(name, root) for name in names], repeats)


def open_source(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> StoredSource:
    """Opens a source of images.

    - an image file: this image alone;
    - a folder: all images below it; a folder that `datasets` saved is a table;
    - `NAME.txt`: a list with one path per line;
    - `shard.tar`, `shards/*.tar`, `shard-{0000..0127}.tar`: tar files, as WebDataset writes them;
    - `NAME.parquet`, `part-*.parquet`: tables with a column of images;
    - `hub:OWNER/NAME`, `hub:OWNER/NAME:SPLIT`: a data set of the Hub; the default split is "train".

    A table gives the bytes in it: somebody else wrote it, so it may not name files of this machine unless `root` allows
    it. A list is the user's own, and may name any file.

    Args:
        name: Name of the source.
        root: Folder below which a table may name files, and links in a folder may end. Relative paths in a table start
            there. None: a table gives bytes alone, and links are followed only to places in the folder itself.

    Raises:
        OSError: if it does not exist or cannot be read.
        ValueError: if it has no images, is of another kind or an address, or `root` is not a folder.
        ImportError: if it is a table and `datasets` is not installed.
    """
    text = os.fspath(name)
    check_root(root)
    refuse_address(text)
    if text.startswith(TABLE_PREFIX):
        return ImageTable.from_hub(text.removeprefix(TABLE_PREFIX), root=root)
    if Path(text).is_dir():
        if is_saved_table(text):
            return ImageTable.from_disk(text, root=root)
        return ImageFolder.scan(text, root)
    suffix = Path(text).suffix.lower()
    if suffix == ".txt":
        return ImageList.read(text)
    if suffix == ".tar":
        return TarShards.scan(expand_pattern(text))
    if suffix == ".parquet":
        return ImageTable.from_parquet(expand_pattern(text), root=root)
    if not Path(text).exists():
        raise FileNotFoundError(f"no such file or folder: {one_line(text)}")
    if suffix in IMAGE_SUFFIXES:
        return ImageList.of_one(text)
    if ".tar." in text.lower() or suffix == ".tgz":
        raise ValueError(
            f"{one_line(text)} is a compressed tar, in which images cannot be reached by index: unpack it, or read it "
            'as "stream:", for training and in Python'
        )
    raise ValueError(
        f"{one_line(text)} is not a source of images; name an image, a folder, a list (.txt), tar files (.tar), "
        f"tables (.parquet), or {TABLE_PREFIX}OWNER/NAME"
    )


def refuse_address(name: str) -> None:
    """Raises ValueError, without its secrets, if a name is an address: only streams read from other machines."""
    if "://" in name and not os.path.exists(name):
        raise ValueError(
            f"{one_line(mask_secrets(name))} is an address, which is read as a stream, for training and in Python: "
            'write "stream:ADDRESS" there, or download it'
        )


def check_root(root: str | os.PathLike[str] | None) -> None:
    """Raises ValueError if a root is given and is not a folder."""
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"root must be a folder that exists, got {one_line(root)}")


def expand_pattern(pattern: str) -> list[str]:
    """Returns the files that match a pattern with "{000..127}", "*" or "?", sorted; a plain name returns itself.

    Raises:
        FileNotFoundError: if no file matches.
        ValueError: if a range runs backwards or has more than a million numbers.
    """
    if _RANGE.search(pattern):
        return [name for text in expand_range(pattern) for name in expand_pattern(text)]
    if os.path.exists(pattern) or not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise FileNotFoundError(f"no file matches {one_line(mask_secrets(pattern))}")
    return found


def expand_range(pattern: str) -> list[str]:
    """Returns the names of a pattern with "{000..127}", whether such files exist or not.

    Raises:
        ValueError: if a range runs backwards or has more than a million numbers.
    """
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MAX_SHARDS:
        raise ValueError(
            f"{match[0]} in {one_line(mask_secrets(pattern))} must count upwards and have at most {MAX_SHARDS} "
            f"numbers, got {first} to {last}"
        )
    numbers = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for number in numbers for name in expand_range(before + number + after)]
