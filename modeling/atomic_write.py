"""Writing files and folders so that readers never see them half written, also after a crash."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes, *, private: bool = False) -> None:
    """Writes `data` to a temporary file beside `path` and renames it to `path`.

    Readers see the old file or the whole new one. If writing fails, the old file stays and the temporary one is
    removed.

    Args:
        path: File to write; it is replaced if it exists.
        data: Content of the file.
        private: Whether only the user may read and write the file.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        OSError: if the file cannot be written, for instance because the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb", opener=_open_privately if private else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
    partial = unfinished or final.with_name(f".{final.name}.{uuid.uuid4().hex}.part")
    old = final.with_name(f".{final.name}.old")
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
