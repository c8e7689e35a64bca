"""The images of a run's probes: which ones they are, and how they are read."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.data.sources import ImageSource, JoinedSources
from stellar_hub.data.sources.combined import SampledImages
from stellar_hub.data.streams import ImageStream
from stellar_hub.features.preparation import PreparedBatches, batch_loader, split_rows
from stellar_hub.modeling import StellarConfig, StellarImageProcessor
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.progress import track
from stellar_hub.training.batches import num_data_workers
from stellar_hub.training.monitoring.previews import some_images
from stellar_hub.training.monitoring.probes import BATCH_SIZE, MAX_WAIT, MIN_IMAGES, Probe
from stellar_hub.training.monitoring.undisturbed import kept_random_state
from stellar_hub.training.recipes.sections import Recipe

MAX_IMAGES = 1024
MAX_CLASSES = 128  # so that 8 images of each are left
_T = TypeVar("_T")


def open_probe(recipe: Recipe) -> tuple[LabelledImages, list[int]] | None:
    """Opens the labelled images of a run's probes, and chooses those that they use.

    Returns:
        All images, and the rows of at most 1024 of them, see `choose_rows`; None for probes without labels, and for no
        probes.

    Raises:
        OSError: if they do not exist or cannot be read.
        ValueError: if they have no labels, or fewer than two classes of two images.
    """
    name = recipe.data.probe
    if name is None or not recipe.run.probe_every:
        return None
    labelled = open_labelled(name, recipe.data.root)
    rows = choose_rows(labelled.labels)
    if not rows:
        raise ValueError(
            "data.probe needs at least 2 classes with 2 images each, as the class of an image is looked for among the "
            f"others; {one_line(name)} has {len(labelled)} images of {len(labelled.classes)} classes"
        )
    return labelled, rows


def choose_rows(labels: Sequence[int]) -> list[int]:
    """Chooses the images of a probe: at most 1024, as many of each class, of at most 128 classes.

    Both are spread over all that there are, and do not depend on random numbers.

    Args:
        labels: Class of each image.

    Returns:
        Rows in ascending order; none if fewer than two classes have two images.
    """
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    classes = spread([label for label in sorted(by_class) if len(by_class[label]) > 1], MAX_CLASSES)
    if len(classes) < 2:
        return []
    return sorted(row for label in classes for row in spread(by_class[label], MAX_IMAGES // len(classes)))


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """Returns at most `count` items, evenly spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // max(1, count - 1)] for index in range(count)]


def build_probe(
    recipe: Recipe,
    labelled: tuple[LabelledImages, list[int]] | None,
    source: JoinedSources | ImageStream,
    config: StellarConfig,
    accelerator: Accelerator,
) -> Probe | None:
    """Builds the probe of a run, and reads its images in the main process, which measures alone.

    Images that cannot be read are left out, and the notes say so.

    Args:
        recipe: The recipe.
        labelled: Labelled images and rows of them, from `open_probe`; None takes images of the run, without labels: up
            to 1024 that are spread over it, or the first ones of a stream.
        source: Source of the run.
        config: Configuration of the model.
        accelerator: The accelerator.

    Returns:
        The probe, without images in other processes; None for a run without probes.

    Raises:
        OSError: if the machine is full: too many files are open, or no memory is left; or MemoryError.
    """
    every = recipe.run.probe_every
    if not every:
        return None
    if not accelerator.is_main_process:
        return Probe(torch.empty(0), every)
    num_workers, problems = num_data_workers(recipe, accelerator.num_processes), list[str]()
    with kept_random_state():
        if labelled is None:
            images: ImageSource = list(some_images(source, problems, MAX_IMAGES))
        else:
            images = SampledImages(labelled[0].images, labelled[1])
        pixels, read = read_images(images, config, num_workers, problems)
    labels = None if labelled is None else torch.tensor([labelled[0].labels[labelled[1][row]] for row in read])
    notes = [*(() if labelled is None else labelled[0].notes), *notes_on(problems, len(read))]
    return Probe(pixels, every, labels, notes, MAX_WAIT if accelerator.num_processes > 1 else None)


def read_images(
    images: ImageSource, config: StellarConfig, num_workers: int, problems: list[str]
) -> tuple[Tensor, list[int]]:
    """Returns images as the model sees them at evaluation, and their rows; why others are missing goes to `problems`.

    Returns:
        Images `(N, 3, H, W)`, uint8, or float32 in [0, 1] if any has more than 8 bits, and N rows.
    """
    processor = StellarImageProcessor.from_config(config)
    loader = batch_loader(
        PreparedBatches(images, processor, split_rows(range(len(images)), BATCH_SIZE)), num_workers, pin_memory=False
    )
    pixels, read = [], []
    for batch in track(loader, "reading the images of the probe", total=len(loader), unit="batch"):
        problems += [record.error for record in batch.records if record.error is not None]
        read += [record.row for record in batch.records if record.error is None]
        if batch.pixel_values is not None:
            pixels.append(batch.pixel_values)
    if any(part.is_floating_point() for part in pixels):
        pixels = [part if part.is_floating_point() else part.float() / 255 for part in pixels]
    size = processor.crop_size
    return torch.cat(pixels) if pixels else torch.empty(0, 3, size["height"], size["width"], dtype=torch.uint8), read


def notes_on(problems: Sequence[str], num_read: int) -> list[str]:
    """Returns sentences on images that could not be read."""
    notes = []
    if problems:
        first = one_line(mask_secrets(problems[0]))
        notes.append(f"the probe leaves out {len(problems)} images that cannot be read; the first: {first}")
    if num_read < MIN_IMAGES:
        notes.append(f"there are no probes, as they need at least {MIN_IMAGES} images and have {num_read}")
    return notes
