"""Sources made of other sources: several as one, and a sample of one."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

from stellar_hub.data.sources.image_source import (
    ImageItem,
    ImageSource,
    IndexedSource,
    StoredSource,
    class_root_of,
    image_name_of,
    stamp_of,
)


class JoinedSources(IndexedSource[ImageItem]):
    """Several sources, one after the other, as one source.

    Args:
        sources: Sources to join: at least one, none of them empty.
        repeats: Number of times that each source occurs in a row, at least 1 each. Empty: once each.

    Attributes:
        damaged: Files that could not be read to their end, each as "path: reason".
        notes: What the sources passed over.

    Raises:
        ValueError: if no source is given, a source is empty, or `repeats` does not fit.
    """

    def __init__(self, sources: Sequence[StoredSource], repeats: Sequence[int] = ()):
        if not sources:
            raise ValueError("no source of images was given; name at least one")
        if repeats and len(repeats) != len(sources):
            raise ValueError(f"repeats must be empty or one number per source ({len(sources)}), got {list(repeats)}")
        if any(repeat != int(repeat) or repeat < 1 for repeat in repeats):
            raise ValueError(f"repeats must be whole numbers of at least 1, got {list(repeats)}")
        empty = [index for index, source in enumerate(sources) if not len(source)]
        if empty:
            raise ValueError(f"source {empty[0]} has no images")
        self.sources = tuple(sources)
        self.repeats = tuple(int(repeat) for repeat in repeats) or (1,) * len(sources)
        self.damaged = tuple(entry for source in self.sources for entry in getattr(source, "damaged", ()))
        self.notes = tuple(note for source in self.sources for note in getattr(source, "notes", ()))
        self._ends = list(
            accumulate(len(source) * repeat for source, repeat in zip(self.sources, self.repeats, strict=True))
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def _image(self, index: int) -> ImageItem:
        source, place = self._place(index)
        return source[place]

    def stamp(self, index: int) -> str:
        """Returns the stamp of an image; "" if its source has none."""
        return stamp_of(*self._place(index))

    def image_name(self, index: int) -> str:
        """Returns the name of an image as its source has it."""
        return image_name_of(*self._place(index))

    def class_root(self, index: int) -> str:
        """Returns the folder that the folder of an image's class lies in; "" where its source knows none."""
        return class_root_of(*self._place(index))

    def _place(self, index: int) -> tuple[StoredSource, int]:
        """Returns the source of an image and the image's index in it."""
        number = bisect_right(self._ends, index)
        source = self.sources[number]
        return source, (index - (self._ends[number - 1] if number else 0)) % len(source)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the sources' fingerprints and repeats.

        Raises:
            OSError: if the file system fails.
        """
        digest = hashlib.sha256()
        for source, repeat in zip(self.sources, self.repeats, strict=True):
            digest.update(f"{repeat} times {source.fingerprint()}\0".encode())
        return digest.hexdigest()


class SampledImages(IndexedSource[ImageItem]):
    """Some images of a source, chosen by their indices.

    Args:
        source: Source of the images.
        indices: Indices into the source, in the order of the sample.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]):
        self.source = source
        self.indices = tuple(indices)
        self.damaged = tuple(getattr(source, "damaged", ()))
        self.notes = tuple(getattr(source, "notes", ()))

    def __len__(self) -> int:
        return len(self.indices)

    def _image(self, index: int) -> ImageItem:
        return self.source[self.indices[index]]

    def stamp(self, index: int) -> str:
        """Returns the stamp of an image; "" if its source has none."""
        return stamp_of(self.source, self.indices[index])

    def image_name(self, index: int) -> str:
        """Returns the name of an image as the source has it."""
        return image_name_of(self.source, self.indices[index])

    def class_root(self, index: int) -> str:
        """Returns the folder that the folder of an image's class lies in; "" where the source knows none."""
        return class_root_of(self.source, self.indices[index])


def sample_images(source: ImageSource, max_images: int, seed: int) -> SampledImages:
    """Draws at most `max_images` images of a source at random and returns them in the source's order."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:max_images]
    return SampledImages(source, sorted(order.tolist()))
