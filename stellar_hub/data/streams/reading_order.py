"""The order in which streams are read for training: the same for any number of workers and processes.

A stream has a fixed number of readers. Each shard belongs to one reader, and samples come from the readers in turn. A
process takes some of the readers, and each of its workers takes some of those; a reader gives the same images whoever
runs it. A reader never ends: it starts its next epoch while others are still in theirs, so no process waits for another
one at the end of an epoch. In each epoch of the readers, every image comes once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from stellar_hub.data.random_numbers import block_generator, epoch_permutation
from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.streams.image_stream import DamagedShardError, ImageStream

READER_COUNTS = (96, 48, 24, 12, 8, 6, 4, 3, 2, 1)  # each shared evenly by many numbers of workers and processes
SHUFFLED_AT_ONCE = 2048  # images, over all readers of one process
MAX_IN_SHARD = 2**32  # images, for numbers


class Cursor(NamedTuple):
    """How far a reader is: the block of images that is shuffled together, and how many of it were given."""

    epoch: int = 0
    place: int = 0  # of the block's first shard, among the reader's in this epoch
    offset: int = 0  # images of that shard that lie before the block
    given: int = 0


@dataclass(frozen=True)
class StreamedImage:
    """An image out of a reader.

    Attributes:
        image: The image, encoded.
        epoch: Its reader's.
        index: A number of its own: the shard's times 2**32, and its place in the shard.
        cursor: Where to go on after it.
        damaged: Shards that could not be read on since the image before, each as "shard: reason".
    """

    image: EncodedImage
    epoch: int
    index: int
    cursor: Cursor
    damaged: tuple[str, ...]


class Readers:
    """The readers of a stream.

    Args:
        stream: What is read.
        seed: Of the order of shards, and of the images in each block.
    """

    def __init__(self, stream: ImageStream, seed: int):
        self.stream = stream
        self.seed = seed
        self.count = next(count for count in READER_COUNTS if count <= len(stream.shards))
        self.block_size = max(16, SHUFFLED_AT_ONCE // self.count)

    def of_process(self, process_index: int, num_processes: int) -> list[int]:
        """The readers of a process.

        Raises:
            ValueError: if the readers cannot be shared evenly.
        """
        if self.count % num_processes:
            raise ValueError(
                f"{len(self.stream.shards)} shards make {self.count} readers, which {num_processes} processes cannot "
                f"share evenly: use {', '.join(str(n) for n in divisors(self.count))} processes, more shards, or the "
                'same files without "stream:"'
            )
        return list(range(process_index, self.count, num_processes))

    def shards(self, reader: int, epoch: int) -> list[int]:
        """The shards a reader reads in an epoch, in its order; all readers together read each once."""
        return epoch_permutation(self.seed, epoch, len(self.stream.shards))[reader :: self.count].tolist()

    def read(self, reader: int, cursor: Cursor = Cursor()) -> Iterator[StreamedImage]:  # noqa: B008  # immutable
        """The images of a reader from a place on, without end.

        Raises:
            ValueError: if a whole epoch of the reader had no image.
        """
        damaged: list[str] = []
        epoch, place, offset, given = cursor
        while True:
            found = False
            for block in self._blocks(reader, epoch, place, offset, damaged):
                found = True
                order = torch.randperm(
                    len(block.images),
                    generator=block_generator(self.seed, epoch, reader, block.start[0], block.start[1]),
                )
                for done, which in enumerate(order[given:].tolist(), start=given + 1):
                    index, image = block.images[which]
                    last = done == len(order)
                    after = Cursor(epoch, *block.end) if last else Cursor(epoch, *block.start, done)
                    yield StreamedImage(image, epoch, index, after, tuple(damaged))
                    damaged.clear()
                given = 0
            if not found and (place, offset) == (0, 0):
                names = ", ".join(self.stream.shards[shard] for shard in self.shards(reader, epoch)[:3])
                raise ValueError(f"no images in {names}{''.join(f'; {entry}' for entry in damaged)}")
            epoch, place, offset = epoch + 1, 0, 0

    def _blocks(self, reader: int, epoch: int, place: int, offset: int, damaged: list[str]) -> Iterator["Block"]:
        """The blocks of a reader in one epoch, from a place on; a block may reach over several shards."""
        shards = self.shards(reader, epoch)
        start = (place, offset)
        images: list[tuple[int, EncodedImage]] = []
        for number in range(place, len(shards)):
            shard, at = shards[number], 0
            try:
                for at, image in enumerate(self.stream.read(shard), start=1):
                    if number == place and at <= offset:
                        continue
                    images.append((shard * MAX_IN_SHARD + at - 1, image))
                    if len(images) == self.block_size:
                        yield Block(images, start, (number, at))
                        images, start = [], (number, at)
            except (DamagedShardError, OSError) as error:
                damaged.append(str(error))
        if images:
            yield Block(images, start, (len(shards), 0))


class Block(NamedTuple):
    """Images that are shuffled together.

    Attributes:
        images: Each with its number.
        start: Place of the first one's shard, and images of it before the block.
        end: The same of what follows.
    """

    images: list[tuple[int, EncodedImage]]
    start: tuple[int, int]
    end: tuple[int, int]


def divisors(number: int) -> list[int]:
    """Ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
