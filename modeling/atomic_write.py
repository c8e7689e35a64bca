"""Writing files and folders so that readers never see them half written, also after a crash."""

import contextlib
import errno
import functools
import hashlib
import io
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

# The second form is that of earlier releases, which did not name the process.
_LEFTOVER = re.compile(
    r"\..*\.(?:(?P<host>[0-9a-f]{8})-(?P<process>[0-9]+)-[0-9a-f]{16}|[0-9a-f]{32})\.part", re.DOTALL
)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_SECONDS_IN_USE = 24 * 3600.0  # a file of another machine that nobody wrote to for a day is a leftover
_SECONDS_BETWEEN_SEARCHES = 60.0
_MAX_REMEMBERED = 1000
_searched: dict[str, float] = {}  # folder: when it was last searched for leftovers


def write_atomically(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Writes `data` to a temporary file beside `path` and renames it to `path`.

    Readers see the old file or the whole new one. If writing fails, the old file stays and the temporary one is
    removed. What processes left in the folder that were killed while they wrote is removed too.

    Args:
        path: File to write; it is replaced if it exists.
        data: Content of the file.
        private: Whether only the user may read and write the file.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        OSError: if the file cannot be written, for instance because the disk is full; it names `path`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    clear_leftovers(path.parent)
    temporary = unfinished_path(path)
    try:
        with open(temporary, "xb", opener=_open_privately if private else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        _name_final_path(error, temporary, path)
        raise


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name_final_path(error: BaseException, temporary: Path, final: Path) -> None:
    """Raises an error of the disk again with the path that the user knows, not with the temporary one or none."""
    if not isinstance(error, OSError) or error.errno is None:
        return
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
    if named == str(temporary) or (not named and error.errno in _DISK_ERRORS):
        named = str(final)
    elif named.startswith(f"{temporary}{os.sep}"):
        named = f"{final}{named[len(str(temporary)) :]}"
    else:
        return
    raise OSError(error.errno, error.strerror, named) from error


def unfinished_path(path: Path) -> Path:
    """Returns a new hidden name beside `path`, at most 92 bytes long, that says which process writes it.

    `path` may have a name of any length; the beginning of the name is for people who look into the folder.
    """
    beginning = _cut(path.name, 40)
    return path.with_name(f".{beginning}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:16]}.part")


def _cut(name: str, length: int) -> str:
    """Returns the beginning of a name of a file: so many bytes, without those that are no text on this system."""
    return os.fsencode(name)[:length].decode(sys.getfilesystemencoding(), "ignore")


@functools.cache
def _host() -> str:
    """Returns a short digest of this machine and, in a container, of its numbering of processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode("utf-8", "replace")).hexdigest()[:8]


def clear_leftovers(folder: Path) -> None:
    """Removes temporary files and folders of processes that were killed, at most once a minute for each folder."""
    key, now = os.path.abspath(folder), time.monotonic()
    if now - _searched.get(key, -_SECONDS_BETWEEN_SEARCHES) < _SECONDS_BETWEEN_SEARCHES:
        return
    if len(_searched) >= _MAX_REMEMBERED:
        _searched.clear()
    _searched[key] = now
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _LEFTOVER.fullmatch(entry.name) if entry.name.endswith(".part") else None
            if match and _is_abandoned(entry, match["host"], int(match["process"] or 0)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def _is_abandoned(entry: "os.DirEntry[str]", host: str | None, process: int) -> bool:
    """Whether the process that wrote a temporary file has ended; for one of another machine, its age decides."""
    if os.name == "posix" and host == _host():
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # it belongs to another user
            pass
        return False
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _SECONDS_IN_USE
    except OSError:
        return False


@contextlib.contextmanager
def errors_name(path: str | os.PathLike[str], unfinished: Path | None = None) -> Iterator[None]:
    """Makes errors of the disk name the file or folder that could not be written, also those of safetensors.

    Args:
        path: File or folder that is written.
        unfinished: Its name until it is complete, which errors shall not show.

    Raises:
        OSError: if the disk is full for the block.
    """
    final = Path(path)
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d{1,5})", str(error))
        if number is None or int(number[1]) not in _DISK_ERRORS:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(final)) from error
    except OSError as error:
        _name_final_path(error, unfinished or final, final)
        raise


class _PatientFile(io.RawIOBase):
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

    def writable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True: torch warns of files that cannot go back to their beginning."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Does nothing: torch goes back to the beginning when all is written, and nothing is read from here."""
        return offset


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
    Unfinished folders of processes that were killed are removed.

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
    beginning = _cut(final.name, 240)  # disks limit the length of names
    old = final.with_name(f".{beginning}.old")
    restore(final, old)
    partial.mkdir()
    try:
        yield partial
        for item in [*partial.rglob("*"), partial]:
            sync(item)
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        sync(final.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        restore(final, old)
        _name_final_path(error, partial, final)
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
