"""Sources made of other sources: several as one, and some images of one."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

from stellar_hub.data.sources.image_source import ImageItem, ImageSource, IndexedSource, StoredSource


class JoinedSources(IndexedSource[ImageItem]):
    """The images of some sources, one source after the other; one with `repeats` n stands n times in a row.

    Args:
        sources: At least one, none of them empty.
        repeats: How often each one's images come, at least 1 each; once each if empty.

    Attributes:
        damaged: Files that could not be read to their end, each as "path: reason".

    Raises:
        ValueError: if no source is given, one is empty, or `repeats` does not fit.
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
        self._ends = list(
            accumulate(len(source) * repeat for source, repeat in zip(self.sources, self.repeats, strict=True))
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def _image(self, index: int) -> ImageItem:
        which = bisect_right(self._ends, index)
        source = self.sources[which]
        return source[(index - (self._ends[which - 1] if which else 0)) % len(source)]

    def fingerprint(self) -> str:
        """SHA-256 over the sources' fingerprints and repeats.

        Raises:
            OSError: if an image is gone meanwhile.
        """
        digest = hashlib.sha256()
        for source, repeat in zip(self.sources, self.repeats, strict=True):
            digest.update(f"{repeat} times {source.fingerprint()}\0".encode())
        return digest.hexdigest()


class SampledImages(IndexedSource[ImageItem]):
    """Images of a source by their indices.

    Args:
        source: The source.
        indices: Which of its images, in their order here.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]):
        self.source = source
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def _image(self, index: int) -> ImageItem:
        return self.source[self.indices[index]]


def sample_images(source: ImageSource, most: int, seed: int) -> SampledImages:
    """At most so many images of a source, drawn at random and in the source's order."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:most]
    return SampledImages(source, sorted(order.tolist()))
