"""Which files are pictures, and finding them below a folder."""

import os
from pathlib import Path

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def find_pictures(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all pictures below a folder, relative to it, with forward slashes, sorted part by part.

    Pictures are told by their suffix. Files and folders whose name starts with "." are skipped. Links are followed, but
    a folder that is reached twice, for instance through a link to one above it, is read once only.

    Raises:
        FileNotFoundError: if there is no such folder.
        NotADirectoryError: if it is a file.
        ValueError: if there is no picture below it.
        OSError: if it, or a folder below it, may not be read.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    names: list[str] = []
    pending = [""]
    seen: set[str] = set()
    while pending:
        inside = pending.pop()
        real = os.path.realpath(os.path.join(folder, inside))
        if real not in seen:
            seen.add(real)
            files, folders = _list_folder(folder, inside)
            names += files
            pending += reversed(folders)
    if not names:
        raise ValueError(f"no pictures in the folder {folder}; looked for {', '.join(sorted(SUFFIXES))}")
    return sorted(names, key=lambda name: name.split("/"))


def _list_folder(root: str | os.PathLike[str], inside: str) -> tuple[list[str], list[str]]:
    """Pictures and folders right in `root`/`inside`, as names relative to `root`; the folders sorted."""
    files, folders = [], []
    prefix = f"{inside}/" if inside else ""
    with os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A link that leads nowhere or to itself is neither a file nor a folder; `DirEntry` would raise for some.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                folders.append(prefix + entry.name)
            elif Path(entry.name).suffix.lower() in SUFFIXES and os.path.isfile(entry.path):
                files.append(prefix + entry.name)
    return files, sorted(folders)
