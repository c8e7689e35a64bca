"""Images in tar files, as WebDataset names them, each reached at its place.

As places are known, tars are read like a folder: any order, any split over workers and processes, going on anywhere, no
sample lost or doubled where tars are of unequal size.
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

from stellar_hub.data.sources.files import SUFFIXES, PackedNames
from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, IndexedSource


class TarIndex(NamedTuple):
    """The images of one tar file, in its order."""

    names: PackedNames  # of the members
    offsets: np.ndarray  # (num_images,) int64: where each image's bytes begin in the tar
    sizes: np.ndarray  # (num_images,) int64: how many they are
    cut_short: str | None  # why not all of the tar could be read; None if it could


def index_tar(path: str | os.PathLike[str]) -> TarIndex:
    """Find the images of an uncompressed tar: only its headers are read.

    Members that are no files, whose name starts with "." or does not end like an image's are passed over. Where a tar
    is cut short or damaged, the images before that place count.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no tar, or a compressed one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such tar file: {path}")
    size = os.path.getsize(path)
    names, offsets, sizes, cut_short = [], [], [], None
    try:
        archive = tarfile.open(path, "r:", errors="surrogateescape")  # noqa: SIM115  # closed below
    except (tarfile.TarError, EOFError) as error:
        compressed = " (it is compressed: images are already, and places in it cannot be reached)"
        raise ValueError(f"{path} is no plain tar file{compressed if is_compressed(path) else f': {error}'}") from error
    with archive:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, EOFError) as error:
                cut_short = str(error) or type(error).__name__
                break
            if member is None:
                cut_short = check_end(path, archive.offset)
                break
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
            if member.isreg() and is_image(member.name):
                if member.offset_data + member.size > size:
                    cut_short = f"{member.name} is cut short"
                    break
                names.append(member.name)
                offsets.append(member.offset_data)
                sizes.append(member.size)
    packed = PackedNames.pack(names)
    return TarIndex(packed, np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64), cut_short)


def check_end(path: str | os.PathLike[str], offset: int) -> str | None:
    """What is wrong with the place where `tarfile` saw the end: it takes a damaged header for one."""
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "it has no end mark: what follows may be missing"
    return f"it is damaged at byte {offset}" if any(block) else None


def is_image(member: str) -> bool:
    """Whether a member's name is that of an image; "photo.left.jpg" is, as in WebDataset's naming."""
    name = member.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as gzip, bzip2, xz or zstandard do."""
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))


class TarShards(IndexedSource[EncodedImage]):
    """The images of some tar files, one after the other; make it with `TarShards.scan`.

    A sequence of `EncodedImage`: `len(source)`, `source[index]`.

    Attributes:
        paths: The tar files.
        indices: What is in each.
        damaged: Those that could not be read to their end, each as "path: reason".
    """

    def __init__(self, paths: Sequence[Path], indices: Sequence[TarIndex]):
        self.paths = tuple(paths)
        self.indices = tuple(indices)
        self.damaged = tuple(
            f"{path}: {index.cut_short}" for path, index in zip(paths, indices, strict=True) if index.cut_short
        )
        self._ends = list(accumulate(len(index.names) for index in indices))
        self._files: dict[int, int] = {}  # descriptors of this process, by shard
        self._process = os.getpid()

    @classmethod
    def scan(cls, paths: Sequence[str | os.PathLike[str]]) -> "TarShards":
        """Find the images of the tars, in the order given.

        Raises:
            FileNotFoundError: if one does not exist.
            ValueError: if none is given, one is no plain tar or given twice, or there is no image in any.
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
        place = index - (self._ends[shard - 1] if shard else 0)
        found = self.indices[shard]
        # `pread` has no position that processes with the same descriptor could disturb.
        data = os.pread(self._file(shard), int(found.sizes[place]), int(found.offsets[place]))
        return EncodedImage(f"{self.paths[shard].name}/{found.names[place]}", data)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "indices": self.indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        if getattr(self, "_process", None) == os.getpid():
            for descriptor in self._files.values():
                os.close(descriptor)

    def fingerprint(self) -> str:
        """SHA-256 over the members' names and sizes, shard by shard: the same wherever the tars lie."""
        digest = hashlib.sha256()
        for path, index in zip(self.paths, self.indices, strict=True):
            digest.update(f"{len(index.names)} {HASHED_WORD} in {path.name}\0".encode(errors="surrogateescape"))
            digest.update(index.names.text + b"\0" + index.names.ends.tobytes() + index.sizes.tobytes())
        return digest.hexdigest()

    def _file(self, shard: int) -> int:
        if self._process != os.getpid():  # the parent closes its own
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return self._files[shard]
