"""Images that are files: which files count as images, and folders of them."""

import errno
import hashlib
import os
import posixpath
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stellar_hub.data.sources.image_source import HASHED_WORD, IndexedSource, file_stamp
from stellar_hub.modeling.image_loading import IMAGE_SUFFIXES
from stellar_hub.modeling.safe_paths import is_below
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import track

_MAX_NAMED = 6  # suffixes in a note
_USUAL = (".safetensors", ".jpg", ".png", ".webp", ".tiff")  # that the error of an empty folder names
MANY_FILES = 10_000  # from so many on, progress is shown
# Folders that systems make beside people's files, with copies of images or without permission to look inside.
FOLDERS_OF_SYSTEMS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
# Errors of a file that is not there or may not be looked at. Others, such as those of a network disk, are passing.
_NO_SIZE = (FileNotFoundError, NotADirectoryError, PermissionError)
_NEVER_THERE = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


class FoundImages(NamedTuple):
    """The images below a folder.

    Attributes:
        names: Names relative to the folder, with forward slashes, sorted part by part.
        notes: What was passed over, counted, one sentence each.
    """

    names: list[str]
    notes: tuple[str, ...]


def find_images(
    folder: str | os.PathLike[str],
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    root: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Returns the names of all images below a folder; see `scan_images`, which also returns what was passed over."""
    return scan_images(folder, suffixes, root).names


def scan_images(
    folder: str | os.PathLike[str],
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    root: str | os.PathLike[str] | None = None,
) -> FoundImages:
    """Finds all images below a folder.

    A file is an image if its suffix, in lower case, is in `suffixes`. Files and folders whose name starts with "." are
    skipped, and so are `FOLDERS_OF_SYSTEMS`. Links are followed if they end below the folder or below `root`; each
    folder is read once, even if links form a circle.

    Args:
        folder: Folder to search.
        suffixes: Suffixes to look for, in lower case and with the dot.
        root: Another folder below which links may end.

    Raises:
        FileNotFoundError: if the folder does not exist.
        NotADirectoryError: if it is a file.
        ValueError: if no image is below it. The message says what was passed over.
        OSError: if the folder, or one below it, may not be read.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f"no such folder: {one_line(folder)}")
    walk = FolderWalk(folder, suffixes, root)
    names = walk.images()
    if not names:
        raise ValueError(f"no images in the folder {one_line(folder)}; {walk.what_was_sought()}")
    return FoundImages(names, walk.notes())


class FolderWalk:
    """The one search for images in folders; it counts what it passes over. `scan_images` says what it finds.

    Args:
        folder: Folder to search.
        suffixes: Suffixes to look for, in lower case and with the dot.
        root: Another folder below which links may end.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        suffixes: Collection[str] = IMAGE_SUFFIXES,
        root: str | os.PathLike[str] | None = None,
    ):
        self.folder = os.fspath(folder)
        self.suffixes = suffixes
        self.allowed = [os.path.realpath(each) for each in (folder, root) if each is not None]
        self.others: Counter[str] = Counter()  # files by their suffix
        self.links_out = 0
        self.special = 0

    def images(self, subfolder: str = "") -> list[str]:
        """Returns the names of all images below a subfolder, relative to the folder, sorted part by part.

        Raises:
            OSError: if a folder may not be read.
        """
        names: list[str] = []
        pending, seen = [subfolder], set()
        while pending:
            current = pending.pop()
            real = os.path.realpath(os.path.join(self.folder, current))
            if real not in seen:
                seen.add(real)
                files, folders = self.entries(current)
                names += files
                pending += reversed(folders)
        return sorted(names, key=lambda name: name.split("/"))

    def entries(self, subfolder: str) -> tuple[list[str], list[str]]:
        """Returns the images and the folders directly in a subfolder, relative to the folder; folders are sorted."""
        files, folders = [], []
        prefix = f"{subfolder}/" if subfolder else ""
        with os.scandir(os.path.join(self.folder, subfolder)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not self._may_follow(entry):
                    continue
                # A link to nothing or to itself is neither a file nor a folder; `DirEntry` would raise for some.
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    if entry.name.lower() not in FOLDERS_OF_SYSTEMS:
                        folders.append(prefix + entry.name)
                elif self._is_image(entry):
                    files.append(prefix + entry.name)
        return files, sorted(folders)

    def _may_follow(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether an entry is no link or a link that ends in an allowed folder; others are counted."""
        if not entry.is_symlink():
            return True
        target = os.path.realpath(entry.path)
        allowed = any(is_below(target, folder) for folder in self.allowed)
        self.links_out += not allowed
        return allowed

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        """Returns whether a file is an image by its name; others are counted."""
        suffix = Path(entry.name).suffix.lower()
        if suffix not in self.suffixes:
            self.others[suffix] += 1
            return False
        is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
        self.special += not is_file
        return is_file

    def what_was_sought(self) -> str:
        """Returns the usual suffixes and the notes, for the error of a folder without images."""
        usual = [suffix for suffix in _USUAL if suffix in self.suffixes] or sorted(self.suffixes)[:_MAX_NAMED]
        others = len(self.suffixes) - len(usual)
        more = f" and {counted(others, 'other suffix', 'other suffixes')}" if others else ""
        return "; ".join([f"looked for {', '.join(usual)}{more}", *self.notes()])

    def notes(self) -> tuple[str, ...]:
        """Returns what was passed over, one sentence each."""
        notes = [*note_on_suffixes(self.others)]
        if self.links_out:
            notes.append(
                f"{counted(self.links_out, 'link leads', 'links lead')} out of the folder {one_line(self.folder)} and "
                f"{'is' if self.links_out == 1 else 'are'} not followed; name a folder above the targets as root "
                "(--root) to follow links"
            )
        if self.special:
            notes.append(
                f"{counted(self.special, 'entry', 'entries')} with the name of an image in {one_line(self.folder)}: "
                "not a file, but a pipe, device, socket or link to nothing"
            )
        return tuple(notes)


@lru_cache(maxsize=4096)  # the images of a class lie in few folders
def class_of_folder(folder: str, roots: tuple[str, ...] = ()) -> str:
    """Returns the class of the images in a folder, by the rule of torchvision's `ImageFolder`.

    It is the first folder below a root, however deep the images lie. Images directly in a root, and those below none,
    have the name of the folder that they lie in.

    Args:
        folder: Folder of the images, with forward slashes; "" for none.
        roots: Absolute paths of folders that hold class folders. Of roots in each other, the outer one counts.
    """
    path = posixpath.normpath(folder) if folder else ""  # else a part such as "photos/.." may look like a root
    found, below = posixpath.basename(folder), posixpath.basename(path)
    while path.strip("/"):
        if path in roots:
            found = below
        below, path = posixpath.basename(path), posixpath.dirname(path)
    return found


def counted(number: int, one: str, many: str) -> str:
    """Returns "1 file is" or "3 files are"."""
    return f"{number:,} {one if number == 1 else many}"


def note_on_suffixes(others: Mapping[str, int]) -> list[str]:
    """Returns what to say about files that were passed over because of their suffix.

    Args:
        others: Number of files for each suffix, in lower case; "" is no suffix.
    """
    if not others:
        return []
    named = [one_line(suffix, 20) or "no suffix" for suffix, _ in Counter(others).most_common(_MAX_NAMED)]
    more = ", ..." if len(others) > len(named) else ""
    total = counted(sum(others.values()), "file is not an image", "files are not images")
    return [f"{total} by suffix ({', '.join(named)}{more})"]


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
        return cls.pack_bytes(os.fsencode(name) for name in names)

    @classmethod
    def pack_bytes(cls, names: Iterable[bytes]) -> "PackedNames":
        """Packs names that are encoded as the file system does; only one of them is in memory at a time."""
        text, ends = bytearray(), array("q")
        for name in names:
            text += name
            ends.append(len(text))
        return cls(bytes(text), np.array(ends, dtype=np.int64))

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
        notes: What was passed over, counted.
    """

    folder: Path
    names: PackedNames
    notes: tuple[str, ...] = ()

    @classmethod
    def scan(cls, folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> "ImageFolder":
        """Lists the images below a folder in sorted order. `scan_images` says which files are images.

        Args:
            folder: Folder of the images.
            root: Another folder below which links in it may end.

        Raises:
            FileNotFoundError: if the folder does not exist.
            NotADirectoryError: if it is a file.
            ValueError: if it has no images.
        """
        found = scan_images(folder, root=root)
        return cls(Path(folder).absolute(), PackedNames.pack(found.names), found.notes)

    def __len__(self) -> int:
        return len(self.names)

    def _image(self, index: int) -> Path:
        return self.folder / self.names[index]

    def class_root(self, index: int) -> str:
        """Returns the folder, whose subfolders are classes if they have images of one class each."""
        return str(self.folder)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of relative names and file sizes: neither the folder's path nor dates change it.

        The size of an image that no longer exists is "?".

        Raises:
            OSError: if the file system fails.
        """
        digest = hashlib.sha256(f"folder of {len(self)} {HASHED_WORD}\0".encode())
        for name in track(self.names, "looking at files", unit="file", enabled=len(self) >= MANY_FILES):
            size = known_size(os.path.join(self.folder, name))
            digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        return digest.hexdigest()

    def stamp(self, index: int) -> str:
        """Returns the size and the modification time of an image's file; "" if it does not exist."""
        return file_stamp(self[index])


def known_size(path: str | os.PathLike[str]) -> str:
    """Returns the size of a file in bytes as a text, or "?" if it does not exist or may not be looked at.

    Raises:
        OSError: if the file system fails.
    """
    try:
        return str(os.stat(path).st_size)
    except (*_NO_SIZE, ValueError):  # ValueError: a null byte
        return "?"
    except OSError as error:
        if error.errno in _NEVER_THERE:
            return "?"
        raise
