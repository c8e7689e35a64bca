"""Images that are files: which files count as images, folders of them, and lists of their paths."""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stellar_hub.data.sources.image_source import HASHED_WORD, IndexedSource

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def find_images(folder: str | os.PathLike[str], suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[str]:
    """Returns the names of all images below a folder, relative to it, with forward slashes, sorted part by part.

    A file is an image if its suffix, in lower case, is in `suffixes`. Files and folders whose name starts with "." are
    skipped. Links are followed, but each folder is read once, even if links form a circle.

    Args:
        folder: Folder to search.
        suffixes: Suffixes to look for, in lower case and with the dot.

    Raises:
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if it is a file.
        ValueError: if no image is below it.
        OSError: if the folder, or one below it, may not be read.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    names: list[str] = []
    pending = [""]
    seen: set[str] = set()
    while pending:
        subfolder = pending.pop()
        real = os.path.realpath(os.path.join(folder, subfolder))
        if real not in seen:
            seen.add(real)
            files, folders = _list_folder(folder, subfolder, suffixes)
            names += files
            pending += reversed(folders)
    if not names:
        raise ValueError(f"no images in the folder {folder}; looked for {', '.join(sorted(suffixes))}")
    return sorted(names, key=lambda name: name.split("/"))


def _list_folder(
    root: str | os.PathLike[str], subfolder: str, suffixes: Collection[str]
) -> tuple[list[str], list[str]]:
    """Returns the images and the folders directly in `root`/`subfolder`, relative to `root`; folders are sorted."""
    files, folders = [], []
    prefix = f"{subfolder}/" if subfolder else ""
    with os.scandir(os.path.join(root, subfolder)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A link to nothing or to itself is neither a file nor a folder; `DirEntry` would raise for some of them.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                folders.append(prefix + entry.name)
            elif Path(entry.name).suffix.lower() in suffixes and os.path.isfile(entry.path):
                files.append(prefix + entry.name)
    return files, sorted(folders)


@dataclass(frozen=True, eq=False)
class PackedNames:
    """A list of file names in one block of memory; make it with `PackedNames.pack`.

    A list of millions of Python strings would be copied into every worker of a data loader piece by piece, because
    reading a Python object writes its reference count.

    Attributes:
        text: All names one after the other, encoded as the file system does.
        ends: End of each name in `text`, `(num_names,)` int64.
    """

    text: bytes
    ends: np.ndarray

    @classmethod
    def pack(cls, names: Sequence[str]) -> "PackedNames":
        """Packs names."""
        encoded = [os.fsencode(name) for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} names")
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class ImageFolder(IndexedSource[Path]):
    """The images below a folder as a sequence of paths; make it with `ImageFolder.scan`.

    Attributes:
        folder: Absolute path of the folder.
        names: Names of the images, relative to the folder.
    """

    folder: Path
    names: PackedNames

    @classmethod
    def scan(cls, folder: str | os.PathLike[str]) -> "ImageFolder":
        """Lists the images below a folder in sorted order. `find_images` says which files are images.

        Raises:
            FileNotFoundError: if the folder does not exist.
            NotADirectoryError: if it is a file.
            ValueError: if it has no images.
        """
        return cls(Path(folder).absolute(), PackedNames.pack(find_images(folder)))

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of relative names and file sizes: neither the folder's path nor dates change it.

        Raises:
            OSError: if an image no longer exists.
        """
        digest = hashlib.sha256(f"folder of {len(self)} {HASHED_WORD}\0".encode())
        for name in self.names:
            size = os.stat(os.path.join(self.folder, name)).st_size
            digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageList(IndexedSource[Path]):
    """The images of a list file as a sequence of paths, in the list's order; make it with `ImageList.read`.

    Attributes:
        folder: Folder of the list; relative paths start there.
        names: Paths as the list has them.
    """

    folder: Path
    names: PackedNames

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "ImageList":
        """Reads a list: one path per line, absolute or relative to the list's folder. Empty lines are skipped.

        The images are not opened; a missing one is noticed when it is read.

        Raises:
            FileNotFoundError: if the list does not exist.
            ValueError: if it names no image or is not a text file.
        """
        path = Path(file).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"no such list of images: {file}")
        data = path.read_bytes()
        if b"\0" in data:
            raise ValueError(f"{file} is not a list of images, because it is not text; write one path per line")
        names = [os.fsdecode(line) for line in (line.rstrip(b"\r") for line in data.split(b"\n")) if line.strip()]
        if not names:
            raise ValueError(f"the list {file} names no image; write one path per line")
        return cls(path.parent, PackedNames.pack(names))

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the paths as the list has them, wherever the list and its images are stored."""
        digest = hashlib.sha256(f"list of {len(self)} {HASHED_WORD}\0".encode())
        digest.update(self.names.text + b"\0" + self.names.ends.tobytes())
        return digest.hexdigest()
