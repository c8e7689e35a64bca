"""From a source of images to batches that the model takes; done in the workers of a data loader."""

import dataclasses
import errno
import signal
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stellar_hub.data.sources import ImageSource, read_image
from stellar_hub.features.image_record import ImageRecord, name_of
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_processing_stellar import apply_geometry

# These are no fault of the image: what follows would fail as well, and would be taken for damaged.
FAULTS_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclasses.dataclass(frozen=True)
class PreparedBatch:
    """Some rows, and the pixels of those that could be read.

    Attributes:
        records: One for each row.
        pixel_values: Of the rows without an error, `(num_ok, 3, H, W)`, uint8 or float32 in [0, 1]; None if all have.
    """

    records: list[ImageRecord]
    pixel_values: Tensor | None

    def pin_memory(self) -> Self:
        """For the data loader: pixels where a GPU can fetch them by itself."""
        pinned = None if self.pixel_values is None else self.pixel_values.pin_memory()
        return dataclasses.replace(self, pixel_values=pinned)


class PreparedBatches(Dataset[PreparedBatch]):
    """Batches of fixed rows.

    Args:
        source: The images.
        processor: How they are fitted.
        batches: The rows of each batch.
    """

    def __init__(self, source: ImageSource, processor: StellarImageProcessor, batches: Sequence[range]):
        self.source = source
        self.processor = processor
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> PreparedBatch:
        prepared = [prepare_row(self.source, row, self.processor) for row in self.batches[index]]
        pixels = [pixel_values for _, pixel_values in prepared if pixel_values is not None]
        return PreparedBatch([record for record, _ in prepared], stack_pixels(pixels))


def prepare_row(source: ImageSource, row: int, processor: StellarImageProcessor) -> tuple[ImageRecord, Tensor | None]:
    """Read and fit one image; one that cannot be gives a record with its error, and no pixels.

    Raises:
        OSError: if the machine is at fault and not the image: too many open files, no memory.
    """
    try:
        image: Any = source[row]
    except (OSError, ValueError, TypeError) as error:  # the source itself fails
        if machine_is_at_fault(error):
            raise
        return ImageRecord(row, f"image {row}", error=printable_line(error)), None
    return prepare_image(image, row, processor)


def prepare_image(image: Any, row: int, processor: StellarImageProcessor) -> tuple[ImageRecord, Tensor | None]:
    """The same for an image that a source has given.

    Raises:
        OSError: if the machine is at fault and not the image.
    """
    try:
        loaded = read_image(image)
        plan = processor.geometry_of_shape(loaded.shape)
        pixel_values = apply_geometry(loaded, plan, processor.fill_value)
    except (OSError, ValueError, TypeError) as error:
        if machine_is_at_fault(error):
            raise
        return ImageRecord(row, name_of(image, row), error=printable_line(error)), None
    record = ImageRecord(row, name_of(image, row), plan.original_size, plan.crop_box)
    return record, pixel_values


def machine_is_at_fault(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says nothing about the image."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FAULTS_OF_THE_MACHINE:
            return True
        error = error.__cause__
    return False


def printable_line(error: BaseException) -> str:
    """An error's message on one line; names in it that are no UTF-8 are escaped."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stack_pixels(pixels: Sequence[Tensor]) -> Tensor | None:
    """Images of one size as a batch: uint8, or floats in [0, 1] if any is; None if there are none."""
    if not pixels:
        return None
    if any(image.is_floating_point() for image in pixels):
        pixels = [image if image.is_floating_point() else image.float() / 255 for image in pixels]
    return torch.stack(list(pixels))


def batch_loader(batches: Dataset[PreparedBatch], num_workers: int, pin_memory: bool) -> DataLoader[PreparedBatch]:
    """A loader that gives the batches in their order, prepared in parallel; 0 workers prepare in this process."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_interrupt_to_parent,
        generator=torch.Generator(),  # else each pass would draw from the global one
    )


def leave_interrupt_to_parent(worker_id: int) -> None:
    """Ctrl-C reaches the whole group; the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_fixed_size(processor: StellarImageProcessor) -> tuple[int, int]:
    """Height and width that every image gets.

    Raises:
        ValueError: if they depend on the image.
    """
    if processor.fit == "aspect" or not processor.do_center_crop:
        raise ValueError(
            'extraction needs images of one size, so that rows have one shape: use fit="crop" or fit="pad", '
            f"got fit={processor.fit!r} and do_center_crop={processor.do_center_crop}"
        )
    return int(processor.crop_size["height"]), int(processor.crop_size["width"])
