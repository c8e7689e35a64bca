"""Pictures in tar files, as WebDataset names them, each reached at its place.

As places are known, tars are read like a folder: any order, any split over workers and processes, going on anywhere, no
sample lost or doubled where tars are of unequal size.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from stellar_hub.data.sources.picture_source import EncodedPicture, IndexedSource
from stellar_hub.data.sources.tar_index import TarIndex, index_tar


class TarShards(IndexedSource[EncodedPicture]):
    """The pictures of some tar files, one after the other; make it with `TarShards.scan`.

    A sequence of `EncodedPicture`: `len(source)`, `source[index]`.

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
        """Find the pictures of the tars, in the order given.

        Raises:
            FileNotFoundError: if one does not exist.
            ValueError: if none is given, one is no plain tar or given twice, or there is no picture in any.
        """
        if not paths:
            raise ValueError("no tar file was given; name at least one")
        found = [Path(path).absolute() for path in paths]
        doubled = sorted({str(path) for path in found if found.count(path) > 1}) if len(set(found)) < len(found) else []
        if doubled:
            raise ValueError(f"tar files are given twice: {', '.join(doubled)}")
        indices = [index_tar(path) for path in found]
        if not any(len(index.names) for index in indices):
            raise ValueError(f"no pictures in {', '.join(map(str, paths[:3]))}{' ...' if len(paths) > 3 else ''}")
        return cls(found, indices)

    def __len__(self) -> int:
        return self._ends[-1]

    def _picture(self, index: int) -> EncodedPicture:
        shard = bisect_right(self._ends, index)
        place = index - (self._ends[shard - 1] if shard else 0)
        found = self.indices[shard]
        # `pread` has no position that processes with the same descriptor could disturb.
        data = os.pread(self._file(shard), int(found.sizes[place]), int(found.offsets[place]))
        return EncodedPicture(f"{self.paths[shard].name}/{found.names[place]}", data)

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
            digest.update(f"{len(index.names)} pictures in {path.name}\0".encode(errors="surrogateescape"))
            digest.update(index.names.text + b"\0" + index.names.ends.tobytes() + index.sizes.tobytes())
        return digest.hexdigest()

    def _file(self, shard: int) -> int:
        if self._process != os.getpid():  # the parent closes its own
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return self._files[shard]
