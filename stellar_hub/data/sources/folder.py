"""The pictures below a folder."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from stellar_hub.data.picture_files import find_pictures
from stellar_hub.data.sources.packed_names import PackedNames
from stellar_hub.data.sources.picture_source import IndexedSource


@dataclass(frozen=True, eq=False)
class PictureFolder(IndexedSource[Path]):
    """The pictures below a folder; make it with `PictureFolder.scan`.

    A sequence of paths: `len(source)`, `source[index]`.
    """

    folder: Path
    names: PackedNames  # relative to it

    @classmethod
    def scan(cls, folder: str | os.PathLike[str]) -> "PictureFolder":
        """List the pictures below a folder, sorted; see `find_pictures` for what counts as one.

        Raises:
            FileNotFoundError: if it does not exist.
            NotADirectoryError: if it is a file.
            ValueError: if it has no pictures.
        """
        return cls(Path(folder).absolute(), PackedNames.pack(find_pictures(folder)))

    def __len__(self) -> int:
        return len(self.names)

    def _picture(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """SHA-256 over relative names and file sizes: the same wherever the folder lies, whatever the files' dates.

        Raises:
            OSError: if a picture is gone meanwhile.
        """
        digest = hashlib.sha256(f"folder of {len(self)} pictures\0".encode())
        for name in self.names:
            size = os.stat(os.path.join(self.folder, name)).st_size
            digest.update(os.fsencode(name) + f"\0{size}\0".encode())
        return digest.hexdigest()
