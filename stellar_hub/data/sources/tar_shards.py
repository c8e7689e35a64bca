"""Images in tar files, named as WebDataset names them, each read at its place in the file.

Because the places are known, tars are read like a folder: in any order, split over any workers and processes, from any
image on. No sample is lost or repeated when the tars are of unequal size.
"""

import hashlib
import os
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stellar_hub.data.sources.files import IMAGE_SUFFIXES, PackedNames
from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, IndexedSource


class TarIndex(NamedTuple):
    """The images of one tar file, in the file's order.

    Attributes:
        names: Names of the images in the tar.
        offsets: First byte of each image in the tar, `(num_images,)` int64.
        sizes: Number of bytes of each image, `(num_images,)` int64.
        damage: Why the tar could not be read to its end; None if it could.
    """

    names: PackedNames
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str | None


def index_tar(path: str | os.PathLike[str]) -> TarIndex:
    """Finds the images of an uncompressed tar by reading its headers only.

    A member is an image if it is a regular file and `is_image` accepts its name. If a tar is cut short or damaged, the
    index holds the images before that place.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a tar, or is a compressed one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such tar file: {path}")
    size = os.path.getsize(path)
    names, offsets, sizes, damage = [], [], [], None
    try:
        archive = tarfile.open(path, "r:", errors="surrogateescape")  # noqa: SIM115  # closed below
    except (tarfile.TarError, EOFError) as error:
        detail = f"{error}"
        if _is_compressed(path):
            detail = 'it is compressed, so images in it cannot be reached by index; unpack it, or read it as "stream:"'
        raise ValueError(f"{path} is not an uncompressed tar file: {detail}") from error
    with archive:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, EOFError) as error:
                damage = str(error) or type(error).__name__
                break
            if member is None:
                damage = _damage_at_end(path, archive.offset)
                break
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
            if member.isreg() and is_image(member.name):
                if member.offset_data + member.size > size:
                    damage = f"{member.name} is cut short"
                    break
                names.append(member.name)
                offsets.append(member.offset_data)
                sizes.append(member.size)
    packed = PackedNames.pack(names)
    return TarIndex(packed, np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64), damage)


def _damage_at_end(path: str | os.PathLike[str], offset: int) -> str | None:
    """Returns what is wrong at the place that `tarfile` took for the end: it takes a damaged header for the end."""
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "it has no end mark, so images may be missing"
    return f"it is damaged at byte {offset}" if any(block) else None


def is_image(member: str) -> bool:
    """Returns whether a member's name ends like an image's and does not start with "."; "photo.left.jpg" does."""
    name = member.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_compressed(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file starts as gzip, bzip2, xz or zstandard files do."""
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))


class TarShards(IndexedSource[EncodedImage]):
    """The images of tar files, one file after the other, as a sequence of `EncodedImage`.

    Make it with `TarShards.scan`.

    Attributes:
        paths: Absolute paths of the tar files.
        indices: Index of each file.
        damaged: Files that could not be read to their end, each as "path: reason".
    """

    def __init__(self, paths: Sequence[Path], indices: Sequence[TarIndex]):
        self.paths = tuple(paths)
        self.indices = tuple(indices)
        self.damaged = tuple(
            f"{path}: {index.damage}" for path, index in zip(paths, indices, strict=True) if index.damage
        )
        self._ends = list(accumulate(len(index.names) for index in indices))
        self._files: dict[int, int] = {}  # descriptors of this process, by shard
        self._process = os.getpid()

    @classmethod
    def scan(cls, paths: Sequence[str | os.PathLike[str]]) -> "TarShards":
        """Finds the images of tar files and keeps the order of the files.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if no file is given, one is given twice or is not an uncompressed tar, or none has an image.
        """
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        found = [Path(path).absolute() for path in paths]
        doubled = sorted({str(path) for path in found if found.count(path) > 1}) if len(set(found)) < len(found) else []
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled)}")
        indices = [index_tar(path) for path in found]
        if not any(len(index.names) for index in indices):
            raise ValueError(f"no images in {', '.join(map(str, paths[:3]))}{' ...' if len(paths) > 3 else ''}")
        return cls(found, indices)

    def __len__(self) -> int:
        return self._ends[-1]

    def _image(self, index: int) -> EncodedImage:
        shard = bisect_right(self._ends, index)
        number = index - (self._ends[shard - 1] if shard else 0)  # within the shard
        images = self.indices[shard]
        # `pread` has no position that processes with the same descriptor could disturb.
        data = os.pread(self._file(shard), int(images.sizes[number]), int(images.offsets[number]))
        return EncodedImage(f"{self.paths[shard].name}/{images.names[number]}", data)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "indices": self.indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        if getattr(self, "_process", None) == os.getpid():
            for descriptor in self._files.values():
                os.close(descriptor)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the images' names and sizes, file by file, wherever the tars are stored."""
        digest = hashlib.sha256()
        for path, index in zip(self.paths, self.indices, strict=True):
            digest.update(f"{len(index.names)} {HASHED_WORD} in {path.name}\0".encode(errors="surrogateescape"))
            digest.update(index.names.text + b"\0" + index.names.ends.tobytes() + index.sizes.tobytes())
        return digest.hexdigest()

    def _file(self, shard: int) -> int:
        """Returns this process's descriptor of a tar file, which it opens on first use."""
        if self._process != os.getpid():  # the parent closes its own
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return self._files[shard]
