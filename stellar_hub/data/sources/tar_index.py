"""Where the pictures lie inside a tar file."""

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stellar_hub.data.picture_files import SUFFIXES
from stellar_hub.data.sources.packed_names import PackedNames


class TarIndex(NamedTuple):
    """The pictures of one tar file, in its order."""

    names: PackedNames  # of the members
    offsets: np.ndarray  # (num_pictures,) int64: where each picture's bytes begin in the tar
    sizes: np.ndarray  # (num_pictures,) int64: how many they are
    cut_short: str | None  # why not all of the tar could be read; None if it could


def index_tar(path: str | os.PathLike[str]) -> TarIndex:
    """Find the pictures of an uncompressed tar: only its headers are read.

    Members that are no files, whose name starts with "." or does not end like a picture's are passed over. Where a tar
    is cut short or damaged, the pictures before that place count.

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
        compressed = " (it is compressed: pictures are already, and places in it cannot be reached)"
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
            if member.isreg() and is_picture(member.name):
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


def is_picture(member: str) -> bool:
    """Whether a member's name is that of a picture; "photo.left.jpg" is, as in WebDataset's naming."""
    name = member.rpartition("/")[2]
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as gzip, bzip2, xz or zstandard do."""
    with open(path, "rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
