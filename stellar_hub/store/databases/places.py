"""Where an export writes files: never into the store, and in place of nothing but an earlier export."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellar_hub.modeling.atomic_write import clear_leftovers, errors_name, sync, unfinished_path
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.databases.identity import KEY, identity_of
from stellar_hub.store.databases.outgoing import Export
from stellar_hub.store.files import pyarrow

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore

ROWS = "rows.parquet"  # in a folder of arrays: the columns beside the features
_PART = re.compile(r"part-\d{5,9}\.parquet")  # in a folder of tables


def check_outside(path: Path, store: "FeatureStore") -> None:
    """Raises ValueError if a path lies in the folder of a store."""
    place, folder = os.path.realpath(path), os.path.realpath(store.path)
    if os.path.commonpath([place, folder]) == folder:
        raise ValueError(f"{one_line(path)} lies in the store {one_line(store.path)}: name a place outside of it")


def content_of(export: Export, **form: Any) -> dict[str, Any]:
    """Returns what identifies the files of an export: the same content and form give the same files.

    Args:
        export: What is exported.
        form: Settings of the form, such as the number of rows in a file.
    """
    return identity_of(export) | {"source": export.source, "content": export.store.digest, "form": form}


def is_written(target: Path, wanted: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether an output is there already, from the same export.

    Args:
        target: File or folder to write.
        wanted: What `content_of` says of the export.
        overwrite: Whether other files may be replaced, and folders that an export wrote.

    Raises:
        FileExistsError: if something else is there and may not be replaced.
    """
    if not os.path.lexists(target):
        return False
    found = _content_in(target)
    if found is not None and not overwrite and _without_version(found) == _without_version(wanted):
        return True
    if target.is_dir() and found is None and any(target.iterdir()):
        raise FileExistsError(f"{one_line(target)} holds something else than an export: name another output")
    if not overwrite and not (target.is_dir() and found is None):
        raise FileExistsError(
            f"{one_line(target)} exists already: overwrite=True (--overwrite) replaces it, or name another output"
        )
    return False


def _without_version(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "library"}


def _content_in(target: Path) -> dict[str, Any] | None:
    """Returns what the metadata of an earlier export say; None for anything else."""
    if not target.is_dir():
        return _content_of_file(target)
    names = sorted(os.listdir(target))
    found = _content_of_file(target / (ROWS if ROWS in names else names[0])) if names else None
    vectors = (found or {}).get("vectors")
    arrays = {ROWS, *(f"{name}.npy" for name in vectors)} if isinstance(vectors, dict) else set()
    is_own = arrays.issuperset(names) if ROWS in names else all(_PART.fullmatch(name) for name in names)
    return found if is_own else None


def _content_of_file(path: Path) -> dict[str, Any] | None:
    pa = pyarrow()
    try:
        with open(regular_file(path), "rb") as file:
            text = (pa.parquet.read_schema(file).metadata or {}).get(KEY.encode())
        found = None if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError, pa.ArrowException):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Any]:
    """Opens a new file that replaces `path` when the block ends without an error: it is written whole or not at all.

    Args:
        path: File to write; it is replaced if it exists. Its folder is made.

    Yields:
        The open file.

    Raises:
        OSError: if it cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent)
    temporary = unfinished_path(path.absolute())
    try:
        with errors_name(path, temporary):
            with open(temporary, "xb") as file:
                yield file
            sync(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
