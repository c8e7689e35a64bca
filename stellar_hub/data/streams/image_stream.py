"""What a stream of images is."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from stellar_hub.data.sources import EncodedImage


class DamagedShardError(ValueError):
    """A shard cannot be read on; what was read of it before counts."""


class ImageStream(Protocol):
    """Shards of images, each of which can be read from its beginning only; how many images there are is unknown."""

    @property
    def shards(self) -> Sequence[str]:
        """Their names, for messages; the order is that of their numbers."""
        ...

    def read(self, shard: int) -> Iterator[EncodedImage]:
        """The images of a shard, in its order, each time the same.

        Raises:
            DamagedShardError: where it cannot be read on; it is named.
            OSError: if it cannot be reached.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 of what identifies the shards; what is in them is not looked at."""
        ...


def fingerprint_of_names(kind: str, names: Sequence[str]) -> str:
    """SHA-256 over names, in their order."""
    return hashlib.sha256("\0".join([f"stream of {kind}", *names]).encode(errors="surrogateescape")).hexdigest()
