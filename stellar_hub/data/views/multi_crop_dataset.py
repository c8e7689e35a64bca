"""The data set of pretraining: samples by key, and the sampler that says which samples each batch holds."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stellar_hub.data.random_numbers import epoch_permutation, replacement_generator, sample_generator
from stellar_hub.data.sources.image_source import ImageSource, skipped_entry
from stellar_hub.data.views.crops import ViewSettings
from stellar_hub.data.views.photometric import PhotometricSettings
from stellar_hub.data.views.view_maker import ViewMaker
from stellar_hub.modeling.image_loading import is_fault_of_machine

SampleKey = tuple[int, int]  # epoch, index


class ResumableBatchSampler(Sampler[list[SampleKey]]):
    """Batches of sample keys `(epoch, index)` for one process.

    The samples of all epochs form one endless sequence; every epoch has its own order. Batch k takes `batch_size`
    samples from `k * batch_size` on, so a batch may cross the end of an epoch. Each process takes an equal, contiguous
    part of every batch.

    Args:
        num_samples: Number of images in an epoch.
        batch_size: Number of samples per batch, over all processes together.
        seed: Seed of the run.
        num_batches: Number of batches of the whole run, those before `start_batch` included.
        start_batch: First batch to return, above 0 when a run is resumed.
        process_index: Index of this process.
        num_processes: Number of processes, which must divide `batch_size`.

    Raises:
        ValueError: if a number is out of its range, or the processes cannot share a batch evenly.
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
        self._order: tuple[int, Tensor] | None = None  # the last epoch and its permutation

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        share = self.batch_size // self.num_processes
        for batch in range(self.start_batch, self.num_batches):
            start = batch * self.batch_size + self.process_index * share
            yield self._keys(start, start + share)

    def _keys(self, start: int, stop: int) -> list[SampleKey]:
        """Returns the keys of the samples from `start` to `stop` in the sequence of all epochs."""
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


MAX_TRIES = 100  # replacements that are tried for an image that cannot be read


class MultiCropDataset(Dataset[dict[str, Any]]):
    """A data set of samples by key: `dataset[epoch, index]` is the same at every time and in every process.

    A sample is a dictionary with the entries of `ViewMaker` and

    - `path`: the image of the sample;
    - `skipped`: images that could not be read and were replaced by this one, each as "path: reason".

    Args:
        source: Source of the images.
        views: Settings of the crops.
        photometric: Settings of the photometric augmentation. None: no augmentation.
        seed: Seed of the run.
        draw_kept: Function that draws the patches to keep of the global views; see `ViewMaker`.
        draw_num_tokens: Function that draws how many tokens of the image to keep; see `ViewMaker`.

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
        draw_num_tokens: Callable[[torch.Generator], Tensor] | None = None,
    ):
        if not len(source):
            raise ValueError("the source has no images")
        self.source = source
        self.view_maker = ViewMaker(views, photometric, draw_kept, draw_num_tokens)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Returns the sample of an image, or of a replacement if the image cannot be read."""
        epoch, index = key
        skipped: list[str] = []
        tries = [index]
        while tries:
            current = tries.pop(0)
            image: object = f"image {current}"
            try:
                image = self.source[current]
                sample = self.view_maker(image, sample_generator(self.seed, epoch, index))
            except Exception as error:
                if is_fault_of_machine(error):
                    raise
                skipped.append(skipped_entry(image, error))
            else:
                return {**sample, "path": str(image), "skipped": skipped}
            if len(skipped) == 1:
                tries = self._replacements(epoch, index)
        raise ValueError(f"none of {len(skipped)} images could be read; the first was {skipped[0]}")

    def _replacements(self, epoch: int, index: int) -> list[int]:
        """Returns indices of other images in random order."""
        others = torch.randperm(len(self.source), generator=replacement_generator(self.seed, epoch, index))
        return [other for other in others[: MAX_TRIES + 1].tolist() if other != index][:MAX_TRIES]
