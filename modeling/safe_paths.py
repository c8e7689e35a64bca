"""Names and paths that come from elsewhere (an index, a manifest, a table), checked before a file is opened."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from .limits import check_limit
from .safe_text import one_line

_DRIVE = re.compile(r"[A-Za-z]:")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def path_below(folder: str | os.PathLike, name: object, subject: str = "") -> Path:
    """Returns the path of a file in a folder by a name that another file brings, such as an index of weights.

    The name is checked by its letters alone: links are not followed, because the Hub client's cache consists of links.

    Args:
        folder: Folder of the file that brings the name.
        name: Name of the file, relative to the folder, with forward slashes.
        subject: What brings the name, such as "model.safetensors.index.json"; it begins the error.

    Raises:
        ValueError: if the name is not text, is empty, absolute, or leads out of the folder.
    """
    reason = _fault_of_name(name)
    if reason:
        raise ValueError(
            f"{subject or 'the folder'} names the file {one_line(repr(name))}, which {reason}; allowed are names of "
            f"files in {folder}"
        )
    return Path(folder) / str(name)


def _fault_of_name(name: object) -> str:
    """Returns why a name does not lead to a file below its folder, or ""."""
    if not isinstance(name, str) or not name:
        return "is not the name of a file"
    if "\0" in name or not name.isprintable():
        return "has control characters"
    if name.startswith(("/", "\\", "~")) or _DRIVE.match(name):
        return "is not relative to its folder"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of its folder"
    return ""


def refuse_file(folder: str | os.PathLike) -> None:
    """Raises NotADirectoryError if a folder to write into is a file."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise NotADirectoryError(f"{one_line(folder)} is a file: name a folder to save into")


def regular_file(path: str | os.PathLike, root: str | os.PathLike | None = None) -> Path:
    """Returns a path if it leads to a regular file, and to one below a folder if that is given. Links are followed.

    Pipes, devices and sockets are refused: a read from them may never end.

    Args:
        path: Path of the file.
        root: Folder below which the file must be after all links are resolved. None: anywhere.

    Returns:
        The path as it was given, or without links if `root` is given.

    Raises:
        FileNotFoundError: if the file does not exist.
        OSError: if the file system refuses to look at it.
        ValueError: if it is not a regular file, or is not below `root`.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null byte
        raise ValueError(f"{one_line(path)} cannot be the name of a file: {error}") from None
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        raise ValueError(f"{one_line(path)} is {kind}; allowed are regular files")
    if root is None:
        return Path(path)
    resolved = os.path.realpath(path)
    if not is_below(resolved, os.path.realpath(root)):
        raise ValueError(f"{one_line(path)} does not lead to a file below {one_line(root)}")
    return Path(resolved)


def is_below(path: str, folder: str) -> bool:
    """Returns whether a path is the folder or lies in it; both must be absolute and without links."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def read_bounded(path: str | os.PathLike, limit: str, root: str | os.PathLike | None = None) -> bytes:
    """Reads a regular file whose size is within a limit.

    Args:
        path: Path of the file.
        limit: Name of a limit in `limits.LIMITS`, such as "image_bytes".
        root: Folder below which the file must be, as in `regular_file`.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if it is not a regular file, is not below `root`, or is larger than the limit.
    """
    checked = regular_file(path, root)
    size = os.stat(checked).st_size
    check_limit(limit, size, one_line(path))
    with open(checked, "rb") as file:
        return file.read(size)  # a file that grows meanwhile is read no further


@contextlib.contextmanager
def utf8_name(path: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """Gives a name of a file or folder that safetensors and torch's reader take: their names must be UTF-8.

    Args:
        path: Path of any name; the file or folder must exist if its name is not UTF-8.

    Yields:
        The path, or a name of the open file, which is valid inside the block.

    Raises:
        OSError: if the name is not UTF-8, and the file cannot be opened.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        pass
    else:
        yield path
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}" if os.path.exists("/dev/fd") else path
    finally:
        os.close(descriptor)
