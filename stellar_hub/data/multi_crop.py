"""The data set of pretraining: samples by number, whatever becomes of the pictures."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stellar_hub.data.crops import ViewSettings
from stellar_hub.data.photometric import PhotometricSettings
from stellar_hub.data.sample_seed import replacement_generator, sample_generator
from stellar_hub.data.sampling import SampleKey
from stellar_hub.data.sources import PictureSource
from stellar_hub.data.view_maker import ViewMaker

MAX_TRIES = 100  # pictures tried in the place of one that cannot be read


class MultiCropDataset(Dataset[dict[str, Any]]):
    """Samples by key: `dataset[epoch, index]` is the same at every time and in every process.

    A sample is what `ViewMaker` makes, and

    - `path`: the picture used;
    - `skipped`: pictures that could not be read, each as "path: reason". Another one took their place.

    Args:
        source: The pictures.
        views: How views are cropped.
        photometric: How they are changed; None leaves all as they are.
        seed: The run's seed.
        draw_kept: Draws the patches to keep of the global views; called last, with the sample's generator.

    Raises:
        ValueError: if the source is empty.
    """

    def __init__(
        self,
        source: PictureSource,
        views: ViewSettings,
        photometric: PhotometricSettings | None,
        seed: int,
        draw_kept: Callable[[torch.Generator], Tensor] | None = None,
    ):
        if not len(source):
            raise ValueError("the source has no pictures")
        self.source = source
        self.make = ViewMaker(views, photometric, draw_kept)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """A picture's sample, another's where it cannot be read."""
        epoch, index = key
        skipped: list[str] = []
        tries = [index]
        while tries:
            picture = self.source[tries.pop(0)]
            path = str(picture)
            try:
                sample = self.make(picture, sample_generator(self.seed, epoch, index))
            except (ValueError, OSError) as error:
                skipped.append(f"{path}: {str(error).removeprefix(path).strip(' :')}")
            else:
                return {**sample, "path": path, "skipped": skipped}
            if len(skipped) == 1:
                tries = self._replacements(epoch, index)
        raise ValueError(f"none of {len(skipped)} pictures could be read; the first was {skipped[0]}")

    def _replacements(self, epoch: int, index: int) -> list[int]:
        others = torch.randperm(len(self.source), generator=replacement_generator(self.seed, epoch, index))
        return [other for other in others[: MAX_TRIES + 1].tolist() if other != index][:MAX_TRIES]
