"""Batches out of a stream, whose images have no rows before they are read."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.streams import DamagedShardError, ImageStream
from stellar_hub.data.streams.reading_order import MAX_IN_SHARD
from stellar_hub.features.image_record import ImageRecord
from stellar_hub.features.preparation import PreparedBatch, prepare_image, printable_line, stack_pixels
from stellar_hub.modeling import StellarImageProcessor


class Numbered(NamedTuple):
    """An image of a stream with its row, or what is wrong with the shard from there on."""

    row: int
    image: EncodedImage | None
    error: str | None = None


class StreamedBatches(IterableDataset[PreparedBatch]):
    """The images of a stream in batches, each once; shards are dealt out to processes and their workers.

    The row of an image is its shard's number times 2**32, and its place in the shard: the same whoever reads it. A
    shard that cannot be read on ends with a row that has the error.

    Args:
        stream: The images.
        processor: How they are fitted.
        batch_size: Images of a batch; the last of a worker may be shorter.
        rank: Which process this is.
        num_processes: How many there are.
    """

    def __init__(
        self,
        stream: ImageStream,
        processor: StellarImageProcessor,
        batch_size: int,
        rank: int = 0,
        num_processes: int = 1,
    ):
        self.stream = stream
        self.processor = processor
        self.batch_size = batch_size
        self.shards = range(rank, len(stream.shards), num_processes)

    def __iter__(self) -> Iterator[PreparedBatch]:
        worker = get_worker_info()
        own = self.shards if worker is None else self.shards[worker.id :: worker.num_workers]
        numbered = (image for shard in own for image in self._read(shard))
        while part := list(islice(numbered, self.batch_size)):
            prepared = [self._prepare(*image) for image in part]
            pixels = [pixel_values for _, pixel_values in prepared if pixel_values is not None]
            yield PreparedBatch([record for record, _ in prepared], stack_pixels(pixels))

    def _read(self, shard: int) -> Iterator[Numbered]:
        row = shard * MAX_IN_SHARD
        try:
            for image in self.stream.read(shard):
                yield Numbered(row, image)
                row += 1
        except (DamagedShardError, OSError) as error:
            yield Numbered(row, None, printable_line(error))

    def _prepare(self, row: int, image: EncodedImage | None, error: str | None) -> tuple[ImageRecord, Any]:
        if image is None:
            return ImageRecord(row, f"the rest of shard {row // MAX_IN_SHARD}", error=error), None
        return prepare_image(image, row, self.processor)
