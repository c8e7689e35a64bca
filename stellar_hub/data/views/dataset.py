"""The data set of pretraining: samples by number, and the sampler that says which samples each batch holds."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stellar_hub.data.random_numbers import epoch_permutation, replacement_generator, sample_generator
from stellar_hub.data.sources import ImageSource
from stellar_hub.data.views.crops import ViewSettings
from stellar_hub.data.views.photometric import PhotometricSettings
from stellar_hub.data.views.view_maker import ViewMaker

SampleKey = tuple[int, int]  # epoch, index


class ResumableBatchSampler(Sampler[list[SampleKey]]):
    """Batches of sample keys `(epoch, index)` for one process.

    The samples form one endless stream: epoch after epoch, each in an order of its own. Global batch k is its part from
    `k * batch_size` on; a batch may cross the end of an epoch. Each process takes an equal, contiguous slice of it.

    Args:
        num_samples: Images in an epoch.
        batch_size: Samples of a batch, over all processes together.
        seed: The run's seed.
        num_batches: Where the run ends: the number of its batches in all, those before `start_batch` included.
        start_batch: The first batch that is given; not 0 where a run is taken up again.
        process_index: Which process this is.
        num_processes: How many there are; divides `batch_size`.

    Raises:
        ValueError: if a number is out of its range, or the batch cannot be split evenly.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        num_batches: int,
        start_batch: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size), ("num_processes", num_processes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= start_batch <= num_batches:
            raise ValueError(f"start_batch must be within [0, num_batches = {num_batches}], got {start_batch}")
        if not 0 <= process_index < num_processes:
            raise ValueError(f"process_index must be within [0, {num_processes - 1}], got {process_index}")
        if batch_size % num_processes:
            raise ValueError(
                f"batch_size is {batch_size} over all processes, which {num_processes} processes cannot share evenly; "
                f"choose a multiple of {num_processes}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.num_batches = num_batches
        self.start_batch = start_batch
        self.process_index = process_index
        self.num_processes = num_processes
        self._order: tuple[int, Tensor] | None = None  # the epoch last used, and its permutation

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        share = self.batch_size // self.num_processes
        for batch in range(self.start_batch, self.num_batches):
            start = batch * self.batch_size + self.process_index * share
            yield self._keys(start, start + share)

    def _keys(self, start: int, stop: int) -> list[SampleKey]:
        """The stream's samples from `start` to `stop`."""
        keys: list[SampleKey] = []
        while start < stop:
            epoch, offset = divmod(start, self.num_samples)
            count = min(stop - start, self.num_samples - offset)
            keys += [(epoch, index) for index in self._permutation(epoch)[offset : offset + count].tolist()]
            start += count
        return keys

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_permutation(self.seed, epoch, self.num_samples)
        return self._order[1]


MAX_TRIES = 100  # images tried in the place of one that cannot be read


class MultiCropDataset(Dataset[dict[str, Any]]):
    """Samples by key: `dataset[epoch, index]` is the same at every time and in every process.

    A sample is what `ViewMaker` makes, and

    - `path`: the image used;
    - `skipped`: images that could not be read, each as "path: reason". Another one took their place.

    Args:
        source: The images.
        views: How views are cropped.
        photometric: How they are changed; None leaves all as they are.
        seed: The run's seed.
        draw_kept: Draws the patches to keep of the global views; called last, with the sample's generator.

    Raises:
        ValueError: if the source is empty.
    """

    def __init__(
        self,
        source: ImageSource,
        views: ViewSettings,
        photometric: PhotometricSettings | None,
        seed: int,
        draw_kept: Callable[[torch.Generator], Tensor] | None = None,
    ):
        if not len(source):
            raise ValueError("the source has no images")
        self.source = source
        self.make = ViewMaker(views, photometric, draw_kept)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """An image's sample, another's where it cannot be read."""
        epoch, index = key
        skipped: list[str] = []
        tries = [index]
        while tries:
            image = self.source[tries.pop(0)]
            path = str(image)
            try:
                sample = self.make(image, sample_generator(self.seed, epoch, index))
            except (ValueError, OSError) as error:
                skipped.append(f"{path}: {str(error).removeprefix(path).strip(' :')}")
            else:
                return {**sample, "path": path, "skipped": skipped}
            if len(skipped) == 1:
                tries = self._replacements(epoch, index)
        raise ValueError(f"none of {len(skipped)} images could be read; the first was {skipped[0]}")

    def _replacements(self, epoch: int, index: int) -> list[int]:
        others = torch.randperm(len(self.source), generator=replacement_generator(self.seed, epoch, index))
        return [other for other in others[: MAX_TRIES + 1].tolist() if other != index][:MAX_TRIES]
