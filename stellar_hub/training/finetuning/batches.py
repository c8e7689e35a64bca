"""The images of a run that trains a classifier: random crops to learn from, and whole images to measure on."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources.image_source import encoded_and_name, skipped_entry
from stellar_hub.data.views.crops import ViewSettings, render_views
from stellar_hub.data.views.multi_crop_dataset import ResumableBatchSampler, SampleKey
from stellar_hub.data.views.view_maker import read_planned
from stellar_hub.data.workers import ImageLoader, default_num_workers
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_loading import is_fault_of_machine
from stellar_hub.training.batches import num_local_processes
from stellar_hub.training.finetuning.settings import FinetuneSettings
from stellar_hub.training.stopping import leave_signals_to_parent

UNREADABLE = -100  # label of an image that cannot be read; the loss leaves it out


class LabelledDataset(Dataset[dict[str, Any]]):
    """A data set of images with their labels.

    A sample has `pixel_values`, `(3, H, W)`; `label`; `row`, the number of the image; `path`; and `skipped`. An image
    that cannot be read is black and has the label `UNREADABLE`, and `skipped` says why: so all batches have their size.

    Args:
        labelled: Images and labels.
        size: Height and width of a sample in pixels.
    """

    dtype = torch.float32

    def __init__(self, labelled: LabelledImages, size: tuple[int, int]):
        self.labelled = labelled
        self.size = size

    def __len__(self) -> int:
        return len(self.labelled)

    def prepare(self, image: Any, index: int, epoch: int) -> Tensor:
        """Reads an image and returns its pixels, `(3, H, W)`."""
        raise NotImplementedError

    def sample(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """Returns the sample of an image, the same at every time and in every process."""
        image: Any = f"image {index}"
        found: dict[str, Any] = {"row": index, "label": self.labelled.labels[index], "skipped": []}
        try:
            image = self.labelled.images[index]
            found["pixel_values"] = self.prepare(image, index, epoch)
        except Exception as error:
            if is_fault_of_machine(error):  # no other image could be read either
                raise
            black = torch.zeros(3, *self.size, dtype=self.dtype)
            found |= {"pixel_values": black, "label": UNREADABLE, "skipped": [skipped_entry(image, error)]}
        return found | {"path": str(image)}


class TrainingCrops(LabelledDataset):
    """Random crops of images, perhaps mirrored, as uint8; the key of a sample is `(epoch, index)`.

    Args:
        labelled: Images and labels.
        side: Side of a crop in pixels.
        settings: Settings of the crops, and the seed.
    """

    dtype = torch.uint8

    def __init__(self, labelled: LabelledImages, side: int, settings: FinetuneSettings):
        super().__init__(labelled, (side, side))
        self.seed = settings.seed
        self.views = ViewSettings(
            image_size=side,
            local_size=side,
            num_global_views=1,
            num_local_views=0,
            global_area=(settings.min_crop_area, 1.0),
            local_area=(settings.min_crop_area, 1.0),
            flip_probability=settings.flip_probability,
        )

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        epoch, index = key
        return self.sample(index, epoch)

    def prepare(self, image: Any, index: int, epoch: int) -> Tensor:
        """Reads an image and cuts the crop that seed, epoch and index draw, `(3, side, side)` uint8."""
        pixels, plans = read_planned(image, self.views, sample_generator(self.seed, epoch, index))
        return render_views(pixels, plans["global"])[0]


class PreparedImages(LabelledDataset):
    """Images as the processor prepares them for users of the classifier, in [0, 1].

    Args:
        labelled: Images and labels.
        size: Height and width of the processor's images.
        processor: The image processor.
    """

    def __init__(self, labelled: LabelledImages, size: tuple[int, int], processor: StellarImageProcessor):
        super().__init__(labelled, size)
        self.processor = processor

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.sample(index)

    def prepare(self, image: Any, index: int, epoch: int) -> Tensor:
        """Reads an image and fits it to the model's size, `(3, H, W)` float32."""
        pixels, _ = self.processor.fit_image(*encoded_and_name(image))
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a batch: `pixel_values` `(B, 3, H, W)`, `labels` and `rows` `(B,)`, `paths` and `skipped`."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples]),
        "rows": torch.tensor([sample["row"] for sample in samples]),
        "paths": [sample["path"] for sample in samples],
        "skipped": [entry for sample in samples for entry in sample["skipped"]],
    }


def shared_batch_size(settings: FinetuneSettings, num_images: int, num_processes: int) -> int:
    """Returns the number of images per step: that of the settings, or all images if there are fewer.

    Raises:
        ValueError: if the processes cannot share it evenly.
    """
    if settings.batch_size % num_processes:
        raise ValueError(f"batch_size must be a multiple of the {num_processes} processes, got {settings.batch_size}")
    return min(settings.batch_size, max(1, num_images // num_processes) * num_processes)


def training_loader(
    dataset: TrainingCrops,
    settings: FinetuneSettings,
    accelerator: Accelerator,
    batch_size: int,
    num_steps: int,
    start_step: int,
) -> ImageLoader[dict[str, Any]]:
    """Returns this process's batches from a step on; they depend neither on workers nor on when a run was resumed."""
    sampler = ResumableBatchSampler(
        len(dataset),
        batch_size,
        settings.seed,
        num_steps,
        start_step,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return _loader(dataset, settings, accelerator, batch_sampler=sampler)


def measuring_loader(
    dataset: PreparedImages, settings: FinetuneSettings, accelerator: Accelerator, batch_size: int
) -> ImageLoader[dict[str, Any]]:
    """Returns this process's part of the images to measure on: every n-th of n processes."""
    rows = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    size = max(1, batch_size // accelerator.num_processes)
    batches = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    return _loader(dataset, settings, accelerator, batch_sampler=batches)


def _loader(
    dataset: LabelledDataset, settings: FinetuneSettings, accelerator: Accelerator, batch_sampler: Any
) -> ImageLoader[dict[str, Any]]:
    num_workers = settings.num_workers
    if num_workers is None:
        num_workers = default_num_workers(num_local_processes(accelerator.num_processes))
    return ImageLoader(
        dataset,
        num_workers,
        leave_signals_to_parent,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        generator=torch.Generator(),  # else each loader would draw from the numbers that dropout draws from
        pin_memory=accelerator.device.type == "cuda",
    )
