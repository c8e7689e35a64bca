"""Millions of names in one piece of memory."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


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
