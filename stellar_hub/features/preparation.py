"""From a source or a stream of images to batches that a model takes; this runs in data workers."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from stellar_hub.data.sources import EncodedImage, ImageSource
from stellar_hub.data.sources.image_source import class_root_of, encoded_and_name
from stellar_hub.data.streams import DamagedShardError, ImageStream
from stellar_hub.data.streams.reading_order import MAX_IN_SHARD
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.data.workers import ImageLoader, default_num_workers
from stellar_hub.features.encoded_jpegs import EncodedJpeg, EncodedJpegs, for_the_device
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import ImageRecord, name_of, named_once, printable_line, roots_of
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_loading import (
    NOT_THE_IMAGES_FAULT,
    is_fault_of_machine,
    is_passing_fault,
    read_encoded,
)

_Prepared = tuple[ImageRecord, Tensor | EncodedJpeg | None]


@dataclasses.dataclass(frozen=True)
class PreparedBatch:
    """Some rows of a source, and the pixels of those that could be read.

    Attributes:
        records: One record for each row.
        pixel_values: Pixels of the rows without an error that are decoded, `(num_ok, 3, H, W)`, uint8 or float32 in
            [0, 1]; None if there are none.
        encoded: JPEGs of the other rows without an error, which `JpegDecoder` decodes; None if there are none.
    """

    records: list[ImageRecord]
    pixel_values: Tensor | None
    encoded: EncodedJpegs | None = None

    def pin_memory(self) -> Self:
        """Returns the batch with its pixels in pinned memory; the data loader calls this."""
        pinned = None if self.pixel_values is None else self.pixel_values.pin_memory()
        return dataclasses.replace(self, pixel_values=pinned)


class PreparedBatches(Dataset[PreparedBatch]):
    """The batches of a source, as a data set whose items are whole batches.

    Args:
        source: The images.
        processor: Processor that fits the images.
        batches: Rows of each batch.
        view: Augmented view that replaces the whole image; None shows the image as the processor fits it.
        keep_jpegs: Whether plain JPEGs stay encoded, for `JpegDecoder`.

    Raises:
        ValueError: if the processor gives images of different sizes.
    """

    def __init__(
        self,
        source: ImageSource,
        processor: StellarImageProcessor,
        batches: Sequence[range],
        view: AugmentedView | None = None,
        keep_jpegs: bool = False,
    ):
        check_fixed_size(processor)
        self.source = source
        self.processor = processor
        self.batches = batches
        self.view = view
        self.keep_jpegs = keep_jpegs

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> PreparedBatch:
        options = (self.processor, self.view, self.keep_jpegs)
        return _stack(prepare_row(self.source, row, *options) for row in self.batches[index])


class _Numbered(NamedTuple):
    """An image of a stream with its row, or why the rest of its shard cannot be read."""

    row: int
    image: EncodedImage | None
    error: str | None = None


class StreamedBatches(IterableDataset[PreparedBatch]):
    """The images of a stream in batches, each image once; processes and their workers share the shards.

    The row of an image is the number of its shard times 2**32, plus its place in the shard. It does not depend on who
    reads the image. A shard of which a part cannot be read, or that has no images, ends with a row that has the error.

    Args:
        stream: The images.
        processor: Processor that fits the images.
        batch_size: Number of images per batch; the last batch of a worker may be smaller.
        processes: This process among those of its launch.
        keep_jpegs: Whether plain JPEGs stay encoded, for `JpegDecoder`.

    Raises:
        ValueError: if the processor gives images of different sizes.
    """

    def __init__(
        self,
        stream: ImageStream,
        processor: StellarImageProcessor,
        batch_size: int,
        processes: Processes | None = None,
        keep_jpegs: bool = False,
    ):
        check_fixed_size(processor)
        processes = processes or Processes()
        self.stream = stream
        self.processor = processor
        self.batch_size = batch_size
        self.keep_jpegs = keep_jpegs
        self.shards = range(processes.rank, len(stream.shards), processes.num_processes)

    def __iter__(self) -> Iterator[PreparedBatch]:
        worker = get_worker_info()
        own = self.shards if worker is None else self.shards[worker.id :: worker.num_workers]
        numbered = (image for shard in own for image in self._read(shard))
        while part := list(islice(numbered, self.batch_size)):
            yield _stack(self._prepare(*image) for image in part)

    def _read(self, shard: int) -> Iterator[_Numbered]:
        row = shard * MAX_IN_SHARD
        try:
            for image in self.stream.read(shard):
                yield _Numbered(row, image)
                row += 1
        except (DamagedShardError, OSError) as error:
            if is_fault_of_machine(error):
                raise
            yield _Numbered(row, None, printable_line(error))

    def _prepare(self, row: int, image: EncodedImage | None, error: str | None) -> _Prepared:
        if image is None:
            return ImageRecord(row, f"the rest of shard {row // MAX_IN_SHARD}", error=error), None
        return prepare_image(image, row, self.processor, keep_jpegs=self.keep_jpegs)


def prepare_row(
    source: ImageSource,
    row: int,
    processor: StellarImageProcessor,
    view: AugmentedView | None = None,
    keep_jpegs: bool = False,
) -> _Prepared:
    """Reads and fits one image of a source; an image that cannot be read gives a record with its error and no pixels.

    Raises:
        OSError, MemoryError, RuntimeError: if the machine is full, and not the image at fault.
    """
    try:
        image: Any = source[row]
    except Exception as error:  # the source itself fails
        return ImageRecord(row, f"image {row}", error=error_of_row(error, f"image {row}")), None
    return prepare_image(image, row, processor, view, keep_jpegs, class_root_of(source, row))


def prepare_image(
    image: Any,
    row: int,
    processor: StellarImageProcessor,
    view: AugmentedView | None = None,
    keep_jpegs: bool = False,
    class_root: str = "",
) -> _Prepared:
    """Reads and fits one image; an image that cannot be read gives a record with its error and no pixels.

    With `keep_jpegs` a plain JPEG is read and not decoded. `class_root` is the folder that the folder of the image's
    class lies in.

    Raises:
        OSError, MemoryError, RuntimeError: if the machine is full, and not the image at fault.
    """
    name = name_of(image, row)
    record = partial(ImageRecord, row, name, roots=roots_of(class_root))
    try:
        if view is not None:
            return record(), view.prepare(processor, image, row)
        content, full_name = encoded_and_name(image)
        if keep_jpegs and isinstance(content, str | bytes | os.PathLike):
            content, full_name = read_encoded(content, full_name)
            if (jpeg := for_the_device(content, full_name, processor)) is not None:
                geometry = jpeg.facts.geometry
                return record(geometry.original_size, geometry.crop_box), jpeg
        pixel_values, geometry = processor.fit_image(content, full_name)
    except Exception as error:
        return record(error=error_of_row(error, name)), None
    return record(geometry.original_size, geometry.crop_box), pixel_values


def error_of_row(error: Exception, name: str) -> str:
    """Returns the error of one image for its record: one line that names the image.

    It begins with `NOT_THE_IMAGES_FAULT` where a disk, a network or rights are at fault.

    Raises:
        The error itself if the machine is full: the next images would fail as well, and would count as damaged.
    """
    if is_fault_of_machine(error):
        raise error
    line = named_once(printable_line(error), name)
    return NOT_THE_IMAGES_FAULT + line if is_passing_fault(error) else line


def _stack(prepared: Iterable[_Prepared]) -> PreparedBatch:
    rows = list(prepared)
    pixels = [image for _, image in rows if isinstance(image, Tensor)]
    jpegs = {place: image for place, (_, image) in enumerate(rows) if isinstance(image, EncodedJpeg)}
    return PreparedBatch([record for record, _ in rows], stack_pixels(pixels), EncodedJpegs.pack(jpegs))


def stack_pixels(pixels: Sequence[Tensor]) -> Tensor | None:
    """Returns images of one size as a batch: uint8, or floats in [0, 1] if any image has floats; None for no images."""
    if not pixels:
        return None
    if any(image.is_floating_point() for image in pixels):
        pixels = [image if image.is_floating_point() else image.float() / 255 for image in pixels]
    return torch.stack(list(pixels))


def batch_loader(
    batches: PreparedBatches | StreamedBatches,
    num_workers: int | None,
    pin_memory: bool,
    multiprocessing_context: str | None = None,
) -> ImageLoader[PreparedBatch]:
    """Returns a data loader that prepares batches.

    Args:
        batches: The batches; those of a source keep their order.
        num_workers: Number of worker processes that prepare batches. None takes the number of cores, at most 8, and at
            most one for each batch or shard; 0 prepares in this process.
        pin_memory: Whether to put pixels into pinned memory.
        multiprocessing_context: How workers start: "fork", "spawn", "forkserver". None: as torch does it.
    """
    if num_workers is None:
        parts = len(batches.shards) if isinstance(batches, StreamedBatches) else len(batches)
        cores = default_num_workers(Processes.from_environment().num_local_processes)
        num_workers = min(cores, parts) if parts > 1 else 0  # one batch is read sooner than a worker starts
    return ImageLoader(
        batches,
        num_workers,
        batch_size=None,
        pin_memory=pin_memory,
        multiprocessing_context=multiprocessing_context if num_workers else None,
        generator=torch.Generator(),  # else each pass would draw from the global generator
    )


class RefusedImageError(ValueError):
    """An image that cannot be read ends the work.

    Args:
        record: Record of the image, with its error.
    """

    def __init__(self, record: ImageRecord):
        super().__init__(record.error)
        self.record = record


def refuse_errors(batches: Iterable[PreparedBatch]) -> Iterator[PreparedBatch]:
    """Yields the batches until one has an image that cannot be read.

    Raises:
        RefusedImageError: with the error of that image, which names it.
    """
    for batch in batches:
        failed = next((record for record in batch.records if record.error is not None), None)
        if failed is not None:
            raise RefusedImageError(failed)
        yield batch


def split_rows(rows: range, batch_size: int) -> list[range]:
    """Returns rows in batches of `batch_size`; the last batch may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def check_fixed_size(processor: StellarImageProcessor) -> tuple[int, int]:
    """Returns the height and the width that every image gets, in pixels.

    Raises:
        ValueError: if they depend on the image.
    """
    if processor.fit == "aspect" or not processor.do_center_crop:
        raise ValueError(
            'all rows need one shape, and therefore all images one size: use fit="crop" or fit="pad", '
            f"got fit={processor.fit!r} and do_center_crop={processor.do_center_crop}"
        )
    return int(processor.crop_size["height"]), int(processor.crop_size["width"])


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raises ValueError if a number is below its minimum."""
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
