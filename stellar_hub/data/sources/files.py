"""Images that are files: which files are images, folders of them, and lists of their paths."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stellar_hub.data.sources.image_source import HASHED_WORD, IndexedSource

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all images below a folder, relative to it, with forward slashes, sorted part by part.

    Images are told by their suffix. Files and folders whose name starts with "." are skipped. Links are followed, but
    a folder that is reached twice, for instance through a link to one above it, is read once only.

    Raises:
        FileNotFoundError: if there is no such folder.
        NotADirectoryError: if it is a file.
        ValueError: if there is no image below it.
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
        raise ValueError(f"no images in the folder {folder}; looked for {', '.join(sorted(SUFFIXES))}")
    return sorted(names, key=lambda name: name.split("/"))


def _list_folder(root: str | os.PathLike[str], inside: str) -> tuple[list[str], list[str]]:
    """Images and folders right in `root`/`inside`, as names relative to `root`; the folders sorted."""
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


@dataclass(frozen=True, eq=False)
class PackedNames:
    """A list of file names in one piece of memory.

    Millions of separate strings would be copied into each worker of a data loader bit by bit, as reading a Python
    object writes its reference count.
    """

    text: bytes  # all names, as the file system spells them, one after the other
    ends: np.ndarray  # (num_names,) int64: where each name ends in `text`

    @classmethod
    def pack(cls, names: Sequence[str]) -> "PackedNames":
        """Pack names."""
        encoded = [os.fsencode(name) for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class ImageFolder(IndexedSource[Path]):
    """The images below a folder; make it with `ImageFolder.scan`.

    A sequence of paths: `len(source)`, `source[index]`.
    """

    folder: Path
    names: PackedNames  # relative to it

    @classmethod
    def scan(cls, folder: str | os.PathLike[str]) -> "ImageFolder":
        """List the images below a folder, sorted; see `find_images` for what counts as one.

        Raises:
            FileNotFoundError: if it does not exist.
            NotADirectoryError: if it is a file.
            ValueError: if it has no images.
        """
        return cls(Path(folder).absolute(), PackedNames.pack(find_images(folder)))

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """SHA-256 over relative names and file sizes: the same wherever the folder lies, whatever the files' dates.

        Raises:
            OSError: if an image is gone meanwhile.
        """
        digest = hashlib.sha256(f"folder of {len(self)} {HASHED_WORD}\0".encode())
        for name in self.names:
            size = os.stat(os.path.join(self.folder, name)).st_size
            digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageList(IndexedSource[Path]):
    """The images of a list, in its order; make it with `ImageList.read`.

    A sequence of paths: `len(source)`, `source[index]`.
    """

    folder: Path  # what relative paths start from
    names: PackedNames

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "ImageList":
        """Read a list: one path per line, relative to the list's folder or absolute; empty lines are passed over.

        The images themselves are not looked at: that one is missing shows when it is read.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it names no image, or is no text of paths.
        """
        path = Path(file).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"no such list of images: {file}")
        data = path.read_bytes()
        if b"\0" in data:
            raise ValueError(f"{file} is no list of images: it is not text; write one path per line")
        names = [os.fsdecode(line) for line in (line.rstrip(b"\r") for line in data.split(b"\n")) if line.strip()]
        if not names:
            raise ValueError(f"the list {file} names no image; write one path per line")
        return cls(path.parent, PackedNames.pack(names))

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """SHA-256 over the names as they stand in the list: the same wherever it lies with its images."""
        digest = hashlib.sha256(f"list of {len(self)} {HASHED_WORD}\0".encode())
        digest.update(self.names.text + b"\0" + self.names.ends.tobytes())
        return digest.hexdigest()
