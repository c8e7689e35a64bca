"""Images in tar files, named as WebDataset names them, each read at its place in the file.

Because the places are known, tars are read like a folder: in any order, split over any workers and processes, from any
image on. No sample is lost or repeated when the tars are of unequal size.
"""

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stellar_hub.data.sources.files import PackedNames
from stellar_hub.data.sources.image_source import HASHED_WORD, EncodedImage, IndexedSource
from stellar_hub.data.sources.open_files import OpenFiles
from stellar_hub.data.sources.tar_images import (
    Links,
    PassedOver,
    choose_by_key,
    is_image_file,
    linked_images,
    refusal_of_size,
)
from stellar_hub.data.sources.tar_members import BLOCK, Damage, ForwardReader, Member, looks_like_tar, walk_members
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.progress import track

_open_files = OpenFiles()  # of all sources: a run may name each of a thousand tars as a source of its own
_numbers = count()  # of sources in this process
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard


class TarIndex(NamedTuple):
    """The images of one tar file: in the file's order, and after them those that are links.

    Attributes:
        names: Names of the images in the tar.
        offsets: First byte of each image in the tar, `(num_images,)` int64.
        sizes: Number of bytes of each image, `(num_images,)` int64.
        damage: What of the tar could not be read; None if it is whole.
        passed_over: What is not taken for an image.
        file_size: Number of bytes of the file.
        stamp: Size and modification time of the file, in words.
    """

    names: PackedNames
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str | None
    passed_over: PassedOver
    file_size: int
    stamp: str


def index_tar(path: str | os.PathLike[str]) -> TarIndex:
    """Finds the images of an uncompressed tar by reading its headers only.

    A member is an image if it is a regular file and `is_image` accepts its name. A link to a member with the name of an
    image is one more image. Beside "photo.jpg", "photo.seg.png" is none. If a tar is cut short or damaged, the index
    holds the images outside the damage.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a tar, or is a compressed one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such tar file: {one_line(path)}")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        _refuse_other_files(one_line(path), file.read(BLOCK))
        file.seek(0)
        damage, passed_over, links = Damage(), PassedOver(), Links()
        images: list[Member] = []

        def members() -> Any:
            file.seek(0)
            return walk_members(ForwardReader(file.read, file.seek, status.st_size), damage)

        def files() -> Any:
            for member in members():
                links.add(member)
                if is_image_file(member, passed_over):
                    yield member

        images += choose_by_key(files(), passed_over)
        if wanted := links.of_files():
            damage, of_first_pass = Damage(), damage
            for member, names in linked_images(members(), wanted, passed_over):
                images += [member._replace(name=name) for name in names]
            damage = of_first_pass
    packed = PackedNames.pack([image.name for image in images])
    offsets = np.array([image.offset for image in images], dtype=np.int64)
    sizes = np.array([image.size for image in images], dtype=np.int64)
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    return TarIndex(packed, offsets, sizes, str(damage) or None, passed_over, status.st_size, stamp)


def _refuse_other_files(name: str, block: bytes) -> None:
    """Raises ValueError if a file begins as no tar does. An empty file is a damaged tar."""
    if block.startswith(_COMPRESSED):
        raise ValueError(
            f"{name} is not an uncompressed tar file: it is compressed, so images in it cannot be reached by index; "
            'unpack it, or read it as "stream:"'
        )
    if any(block) and not looks_like_tar(block):
        raise ValueError(f"{name} is not an uncompressed tar file: it begins with no header")


class TarShards(IndexedSource[EncodedImage]):
    """The images of tar files, one file after the other, as a sequence of `EncodedImage`.

    Make it with `TarShards.scan`.

    Attributes:
        paths: Absolute paths of the tar files.
        indices: Index of each file.
        damaged: Files of which a part could not be read, each as "path: reason".
        notes: What was passed over, counted, in words.
    """

    def __init__(self, paths: Sequence[Path], indices: Sequence[TarIndex]):
        self.paths = tuple(paths)
        self.indices = tuple(indices)
        self.damaged = tuple(
            f"{one_line(path)}: {index.damage}" for path, index in zip(paths, indices, strict=True) if index.damage
        )
        self.notes = _notes(self.paths, self.indices)
        self._ends = list(accumulate(len(index.names) for index in indices))
        self._number = next(_numbers)

    @classmethod
    def scan(cls, paths: Sequence[str | os.PathLike[str]]) -> "TarShards":
        """Finds the images of tar files and keeps the order of the files.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if no file is given, one is given twice or is not an uncompressed tar, or none has an image.
        """
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        address = next((str(path) for path in paths if "://" in str(path)), None)
        if address is not None:
            raise ValueError(
                f'{mask_secrets(address)} is an address, which is read as a stream: write "stream:ADDRESS"'
            )
        found = [Path(path).absolute() for path in paths]
        doubled = sorted(one_line(path) for path, times in Counter(found).items() if times > 1)
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled[:3])}")
        indices = [index_tar(path) for path in track(found, "finding images", unit="tar", enabled=len(found) > 1)]
        if not any(len(index.names) for index in indices):
            names = ", ".join(one_line(path) for path in paths[:3]) + (" ..." if len(paths) > 3 else "")
            damage = [index.damage for index in indices[:3] if index.damage]
            raise ValueError("; ".join([f"no images in {names}", *damage, *_notes(found, indices)]))
        return cls(found, indices)

    def __len__(self) -> int:
        return self._ends[-1]

    def _image(self, index: int) -> EncodedImage:
        shard, number = self._place(index)
        images = self.indices[shard]
        name, size = self.image_name(index), int(images.sizes[number])
        if error := refusal_of_size(size, name):
            return EncodedImage(name, b"", error)
        try:
            data = _open_files.read(
                (self._number, shard),
                lambda: _open_unchanged(self.paths[shard], images.file_size),
                size,
                int(images.offsets[number]),
            )
        except OSError as fault:
            raise OSError(fault.errno, fault.strerror, fault.filename or name) from fault
        error = "" if len(data) == size else f"{name} cannot be read: {self.paths[shard]} is shorter than before"
        return EncodedImage(name, data, error)

    def stamp(self, index: int) -> str:
        """Returns a text that changes when the tar of an image changes: its size, its time, the image's place in it.

        Raises:
            IndexError: if the index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for a source of {len(self)} images")
        shard, number = self._place(index)
        images = self.indices[shard]
        return f"{images.stamp} {images.offsets[number]}"

    def image_name(self, index: int) -> str:
        """Returns the name of the tar and the name of an image in it."""
        shard, number = self._place(index)
        return f"{self.paths[shard].name}/{self.indices[shard].names[number]}"

    def _place(self, index: int) -> tuple[int, int]:
        """Returns the number of the tar of an image, and the number of the image in it."""
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "indices": self.indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            _open_files.close(self._number)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the images' names and sizes, file by file, wherever the tars are stored."""
        digest = hashlib.sha256()
        for path, index in zip(self.paths, self.indices, strict=True):
            digest.update(f"{len(index.names)} {HASHED_WORD} in {path.name}\0".encode(errors="surrogateescape"))
            digest.update(index.names.text + b"\0" + index.names.ends.tobytes() + index.sizes.tobytes())
        return digest.hexdigest()


def _notes(paths: Sequence[Path], indices: Sequence[TarIndex]) -> tuple[str, ...]:
    """Returns what was passed over in all tars, and the tars without images."""
    total = PassedOver()
    for index in indices:
        total.add_all(index.passed_over)
    empty = [path for path, index in zip(paths, indices, strict=True) if not len(index.names) and not index.damage]
    if empty:
        total.add("tar files without images", str(empty[0]), len(empty))
    return (*total.counted_notes().values(), *total.suffix_notes())


def _open_unchanged(path: Path, size: int) -> int:
    """Opens a tar and returns its descriptor.

    Raises:
        ValueError: if its size is another one than when it was indexed, so that its images are elsewhere.
    """
    descriptor = os.open(path, os.O_RDONLY)
    seen = os.fstat(descriptor).st_size
    if seen != size:
        os.close(descriptor)
        raise ValueError(f"{one_line(path)} had {size} bytes when it was opened, and has {seen} now: open it again")
    return descriptor
