"""The order in which streams are read for training: the same for any number of workers and processes.

A stream has a fixed number of readers. Each shard belongs to one reader, and samples come from the readers in turn. A
process takes some of the readers, and each of its workers takes some of those. A reader returns the same images in
any worker. A reader never ends: it starts its next epoch while others are still in theirs, so no process
waits for another one at the end of an epoch. In each epoch of the readers, every image occurs once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from stellar_hub.data.random_numbers import block_generator, epoch_permutation
from stellar_hub.data.sources.image_source import EncodedImage
from stellar_hub.data.streams.image_streams import DamagedShardError, ImageStream
from stellar_hub.modeling.image_loading import is_fault_of_machine

READER_COUNTS = (96, 48, 24, 12, 8, 6, 4, 3, 2, 1)  # many numbers of workers and processes share each of them evenly
SHUFFLE_BUFFER_SIZE = 2048  # images that are shuffled together, over all readers of a stream
MIN_BLOCK_SIZE = 16
MAX_EMPTY_SHARDS = 100  # in a row
MAX_IN_SHARD = 2**32  # bound of the images in a shard, for the images' numbers


class Cursor(NamedTuple):
    """The position of a reader: the block of images that is shuffled together, and how many of them it has returned.

    Checkpoints hold cursors as lists, so the order of the fields stays.

    Attributes:
        epoch: Epoch of the reader.
        position: Position of the block's first shard among the reader's shards of this epoch.
        offset: Number of images of that shard before the block.
        num_returned: Number of images of the block that were returned.
    """

    epoch: int = 0
    position: int = 0
    offset: int = 0
    num_returned: int = 0


@dataclass(frozen=True)
class StreamedImage:
    """An image that a reader returned.

    Attributes:
        image: The encoded image.
        epoch: Epoch of the reader.
        index: Number of the image in the stream: the number of its shard times 2**32, plus its position in the shard.
        cursor: Where the reader continues after this image.
        damaged: Shards that could not be read to their end since the previous image, each as "shard: reason".
    """

    image: EncodedImage
    epoch: int
    index: int
    cursor: Cursor
    damaged: tuple[str, ...]


class Readers:
    """The readers of a stream.

    Args:
        stream: Stream to read.
        seed: Seed of the order of shards and of the images in each block.

    Attributes:
        count: Number of readers, which follows from the number of shards.
        block_size: Number of images that a reader shuffles together.
    """

    def __init__(self, stream: ImageStream, seed: int):
        self.stream = stream
        self.seed = seed
        self.count = next(count for count in READER_COUNTS if count <= len(stream.shards))
        self.block_size = max(MIN_BLOCK_SIZE, SHUFFLE_BUFFER_SIZE // self.count)

    def for_process(self, process_index: int, num_processes: int) -> list[int]:
        """Returns the numbers of a process's readers.

        Raises:
            ValueError: if the processes cannot share the readers evenly.
        """
        if self.count % num_processes:
            divisors = [number for number in range(1, self.count + 1) if self.count % number == 0]
            raise ValueError(
                f"{len(self.stream.shards)} shards make {self.count} readers, which {num_processes} processes cannot "
                f"share evenly; use {', '.join(map(str, divisors))} processes, more shards, or the same files without "
                '"stream:"'
            )
        return list(range(process_index, self.count, num_processes))

    def shards(self, reader: int, epoch: int) -> list[int]:
        """Returns the shards that a reader reads in an epoch, in order. All readers together read each shard once."""
        return epoch_permutation(self.seed, epoch, len(self.stream.shards))[reader :: self.count].tolist()

    def read(self, reader: int, cursor: Cursor = Cursor()) -> Iterator[StreamedImage]:  # noqa: B008  # immutable
        """Reads the images of a reader from a cursor on, without end.

        Shards without images are passed over, and said among the damaged ones.

        Raises:
            ValueError: if no shard of the stream has an image, or 100 shards in a row have none.
        """
        damaged: list[str] = []
        empty: dict[int, None] = {}  # shards without images since the last image
        epoch, position, offset, num_returned = cursor
        while True:
            for block in self._blocks(reader, epoch, position, offset, damaged, empty):
                generator = block_generator(self.seed, epoch, reader, *block.start)
                order = torch.randperm(len(block.images), generator=generator).tolist()
                for count, number in enumerate(order[num_returned:], start=num_returned + 1):
                    index, image = block.images[number]
                    is_last = count == len(order)
                    after = Cursor(epoch, *block.end) if is_last else Cursor(epoch, *block.start, count)
                    yield StreamedImage(image, epoch, index, after, tuple(damaged))
                    damaged.clear()
                num_returned = 0
            if len(empty) >= min(len(self.stream.shards), MAX_EMPTY_SHARDS):
                names = ", ".join(self.stream.shards[shard] for shard in list(empty)[:3])
                raise ValueError("; ".join([f"no images in {names}", *damaged[:3]]))
            epoch, position, offset = epoch + 1, 0, 0

    def _blocks(
        self, reader: int, epoch: int, position: int, offset: int, damaged: list[str], empty: dict[int, None]
    ) -> Iterator["_Block"]:
        """Reads the blocks of a reader in one epoch from a place on.

        A block may extend over several shards. Damaged shards are appended to `damaged`. `empty` gets the shards
        without images, and loses all of them at the next image.
        """
        shards = self.shards(reader, epoch)
        start = (position, offset)
        images: list[tuple[int, EncodedImage]] = []
        for current in range(position, len(shards)):
            shard, count = shards[current], 0
            try:
                for count, image in enumerate(self.stream.read(shard), start=1):
                    if current == position and count <= offset:
                        continue
                    images.append((shard * MAX_IN_SHARD + count - 1, image))
                    if len(images) == self.block_size:
                        yield _Block(images, start, (current, count))
                        images, start = [], (current, count)
            except (DamagedShardError, OSError) as error:
                if is_fault_of_machine(error):
                    raise
                damaged.append(str(error))
            if count:
                empty.clear()
            else:
                empty[shard] = None
        if images:
            yield _Block(images, start, (len(shards), 0))


class _Block(NamedTuple):
    """Images that are shuffled together.

    Attributes:
        images: Number of each image in the stream, and the image.
        start: Position of the first image's shard, and number of images of that shard before the block.
        end: Position of the next block's first shard, and number of images of that shard before the next block.
    """

    images: list[tuple[int, EncodedImage]]
    start: tuple[int, int]
    end: tuple[int, int]
