"""Writing files and folders so that readers never see them half written, also after a crash."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

MAX_NAME = 120  # bytes of a name that its unfinished file repeats, as file systems allow 255
DAY = 86_400  # seconds
FULL = (
    errno.ENOSPC,
    errno.EFBIG,
    getattr(errno, "EDQUOT", errno.ENOSPC),
)  # the disk is full, the file too large, the quota used up

_UNFINISHED = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]{32}\.part", re.DOTALL)
_OLDER = re.compile(r"\..*\.[0-9a-f]{32}\.part", re.DOTALL)  # of earlier releases, which did not name the process
_cleared: set[Path] = set()


def unfinished_path(path: Path) -> Path:
    """Returns a new hidden name beside `path` for what is not yet complete; it tells which process writes it."""
    name = os.fsencode(path.name)
    if len(name) > MAX_NAME:
        name = name[: MAX_NAME - 20] + hashlib.sha256(name).hexdigest()[:16].encode()
    return path.with_name(f".{os.fsdecode(name)}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex}.part")


def clear_leftovers(folder: Path) -> None:
    """Removes what processes that no longer run left unfinished in a folder; once per folder and process.

    Removed are files and folders of this machine whose process has ended, and those of earlier releases that are more
    than a day old.
    """
    folder = folder.absolute()
    if folder in _cleared:
        return
    _cleared.add(folder)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".part") and _is_leftover(entry):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _is_leftover(entry: "os.DirEntry[str]") -> bool:
    match = _UNFINISHED.fullmatch(entry.name)
    if match is None:
        old = _OLDER.fullmatch(entry.name)
        return old is not None and time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY
    return match["machine"] == _machine() and not _runs(int(match["process"]))


def _runs(process: int) -> bool:
    """Returns whether a process of this machine runs; True where it cannot be known."""
    if os.name != "posix":
        return True  # on Windows, the signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@cache
def _machine() -> str:
    """Returns eight letters for this machine, and for the container in it: process numbers mean nothing elsewhere."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def errors_name(path: str | os.PathLike[str], unfinished: Path | None = None) -> Iterator[None]:
    """Makes the error of a disk that is full name the file or folder that could not be written.

    Args:
        path: File or folder that is written.
        unfinished: Its name until it is complete, which errors shall not show.

    Raises:
        OSError: if the disk is full for the block, or for safetensors in it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, name = getattr(error, "errno", None), getattr(error, "filename", None)
        if isinstance(error, SafetensorError):
            found = re.search(r"os error (\d{1,5})", str(error))
            number = int(found[1]) if found else None
        if number not in FULL or (name is not None and not _is_inside(name, unfinished)):
            raise
        shown = str(path) if name is None else os.path.join(path, os.path.relpath(name, unfinished))
        raise OSError(number, os.strerror(number), shown) from error


def _is_inside(name: Any, folder: Path | None) -> bool:
    return folder is not None and isinstance(name, str) and Path(name).is_relative_to(folder)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to a temporary file beside `path` and renames it to `path`.

    Readers see the old file or the whole new one. If writing fails, the old file stays and the temporary one is
    removed. Temporary files of processes that were killed are removed by the next process that writes here.

    Args:
        path: File to write; it is replaced if it exists.
        data: Content of the file.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        OSError: if the file cannot be written, for instance because the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    clear_leftovers(path.parent)
    temporary = unfinished_path(path)
    try:
        with errors_name(path):
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


class _PatientFile:
    """A file that keeps the error of a write, and lets the rest of the writes pass without doing them."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes bytes, unless an earlier write has failed; it always returns their number."""
        if self.error is None:
            try:
                self._write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def _write(self, data: Any) -> None:
        self._file.write(data)

    def flush(self) -> None:
        """Does nothing: the file is flushed when it is closed."""


@contextlib.contextmanager
def patient_file(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a file for torch's own writer, which ends the whole process where a write fails, as on a full disk.

    Writes in the block seem to succeed; the first error is raised when the block ends.

    Args:
        path: File to create.

    Yields:
        An object with `write` and `flush`, for `torch.save` and `torch.export.save`.

    Raises:
        OSError: if the file cannot be written; it names the file.
    """
    with errors_name(path), open(path, "xb") as file:
        patient = _PatientFile(file)
        yield patient
        if patient.error is not None:
            raise patient.error


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str], unfinished: Path | None = None) -> Iterator[Path]:
    """Gives a new, empty folder to fill, which replaces `path` when the block ends without an error.

    While it is filled, the new folder is beside `path`, under a hidden name that ends in `.part`. Readers see the old
    folder or the whole new one. If the block fails, the new folder is removed and the old one stays. If a process was
    killed between the two renames, the next call first gives the old folder, then `.NAME.old`, its name back.

    Args:
        path: Folder to write; it is replaced if it exists. Its parent folder must exist.
        unfinished: Path of the new folder until the block ends, on the disk of `path`. Other processes that write into
            it need to know it. Default: a hidden name beside `path` that only this call uses.

    Yields:
        The folder to fill.

    Raises:
        FileNotFoundError: if the parent folder of `path` does not exist.
        OSError: if a folder cannot be created or renamed.
    """
    final = Path(path).absolute()
    if not final.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {final.parent} does not exist")
    clear_leftovers(final.parent)
    partial = unfinished or unfinished_path(final)
    old = final.with_name(f".{final.name}.old")
    restore(final, old)
    partial.mkdir()
    try:
        with errors_name(path, partial):
            yield partial
            for item in [*partial.rglob("*"), partial]:
                sync(item)
            if final.exists():
                os.replace(final, old)
            os.replace(partial, final)
            sync(final.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        restore(final, old)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore(final: Path, old: Path) -> None:
    """Gives the old folder its name back, or removes it if a newer folder has the name."""
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, final)


def sync(path: Path) -> None:
    """Flushes one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
