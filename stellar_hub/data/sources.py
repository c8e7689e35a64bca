"""Picture files to train on: everything below some folders."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from stellar_hub.data.picture_files import find_pictures


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
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])])


@dataclass(frozen=True, eq=False)
class PictureFolders:
    """The pictures of some folders, one after the other; make it with `PictureFolders.scan`.

    A sequence of paths: `len(source)`, `source[index]`. A folder with `repeats` n stands in it n times in a row.
    """

    folders: tuple[Path, ...]
    repeats: tuple[int, ...]
    names: tuple[PackedNames, ...]  # relative to their folder

    @classmethod
    def scan(cls, folders: Sequence[str | os.PathLike[str]], repeats: Sequence[int] = ()) -> "PictureFolders":
        """List the pictures below each folder, sorted; see `find_pictures` for what counts as one.

        Args:
            folders: At least one.
            repeats: How often each folder's pictures come, at least 1 each; once each if empty.

        Raises:
            FileNotFoundError: if a folder does not exist.
            ValueError: if no folder is given, one has no pictures, or `repeats` does not fit.
        """
        if isinstance(folders, str | os.PathLike):
            raise ValueError(f"folders must be a list of folders, got {str(folders)!r}; write [{str(folders)!r}]")
        if not folders:
            raise ValueError("no folder of pictures was given; name at least one")
        if repeats and len(repeats) != len(folders):
            raise ValueError(f"repeats must be empty or one number per folder ({len(folders)}), got {list(repeats)}")
        if any(repeat != int(repeat) or repeat < 1 for repeat in repeats):
            raise ValueError(f"repeats must be whole numbers of at least 1, got {list(repeats)}")
        names = tuple(PackedNames.pack(find_pictures(folder)) for folder in folders)
        times = tuple(int(repeat) for repeat in repeats) or (1,) * len(folders)
        return cls(tuple(Path(folder).absolute() for folder in folders), times, names)

    def __len__(self) -> int:
        return sum(len(names) * repeat for names, repeat in zip(self.names, self.repeats, strict=True))

    def __getitem__(self, index: int) -> Path:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        ends = list(accumulate(len(names) * repeat for names, repeat in zip(self.names, self.repeats, strict=True)))
        which = bisect_right(ends, index)
        start = ends[which - 1] if which else 0
        names = self.names[which]
        return self.folders[which] / names[(index - start) % len(names)]

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """SHA-256 over relative names, file sizes and repeats: the same wherever the folders lie, whatever their dates.

        Raises:
            OSError: if a picture is gone meanwhile.
        """
        digest = hashlib.sha256()
        for folder, names, repeat in zip(self.folders, self.names, self.repeats, strict=True):
            digest.update(f"{repeat} times {len(names)} pictures\0".encode())
            for name in (names[index] for index in range(len(names))):
                size = os.stat(os.path.join(folder, name)).st_size
                digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        return digest.hexdigest()
