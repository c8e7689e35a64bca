"""Pictures named by a text file, one path per line."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from stellar_hub.data.sources.packed_names import PackedNames
from stellar_hub.data.sources.picture_source import IndexedSource


@dataclass(frozen=True, eq=False)
class PictureList(IndexedSource[Path]):
    """The pictures of a list, in its order; make it with `PictureList.read`.

    A sequence of paths: `len(source)`, `source[index]`.
    """

    folder: Path  # what relative paths start from
    names: PackedNames

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> "PictureList":
        """Read a list: one path per line, relative to the list's folder or absolute; empty lines are passed over.

        The pictures themselves are not looked at: that one is missing shows when it is read.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it names no picture, or is no text of paths.
        """
        path = Path(file).absolute()
        if not path.is_file():
            raise FileNotFoundError(f"no such list of pictures: {file}")
        data = path.read_bytes()
        if b"\0" in data:
            raise ValueError(f"{file} is no list of pictures: it is not text; write one path per line")
        names = [os.fsdecode(line) for line in (line.rstrip(b"\r") for line in data.split(b"\n")) if line.strip()]
        if not names:
            raise ValueError(f"the list {file} names no picture; write one path per line")
        return cls(path.parent, PackedNames.pack(names))

    def __len__(self) -> int:
        return len(self.names)

    def _picture(self, index: int) -> Path:
        return self.folder / self.names[index]

    def fingerprint(self) -> str:
        """SHA-256 over the names as they stand in the list: the same wherever it lies with its pictures."""
        digest = hashlib.sha256(f"list of {len(self)} pictures\0".encode())
        digest.update(self.names.text + b"\0" + self.names.ends.tobytes())
        return digest.hexdigest()
