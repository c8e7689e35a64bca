"""Some pictures of a source, where all would be too many."""

from collections.abc import Sequence

import torch

from stellar_hub.data.sources.picture_source import IndexedSource, Picture, PictureSource


class SampledPictures(IndexedSource[Picture]):
    """Pictures of a source by their indices.

    Args:
        source: The source.
        indices: Which of its pictures, in their order here.
    """

    def __init__(self, source: PictureSource, indices: Sequence[int]):
        self.source = source
        self.indices = tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def _picture(self, index: int) -> Picture:
        return self.source[self.indices[index]]


def sample_pictures(source: PictureSource, most: int, seed: int) -> SampledPictures:
    """At most so many pictures of a source, drawn at random and in the source's order."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:most]
    return SampledPictures(source, sorted(order.tolist()))
