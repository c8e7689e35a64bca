"""The order in which streams are read for training: the same for any number of workers and processes.

Shards are dealt out to a fixed number of lanes, and samples are taken from the lanes in turn. A process has some of the
lanes, each of its workers some of those: who reads a lane changes nothing in what it gives. A lane never ends, as it
goes on with its next epoch while others are still in theirs; so no process waits for another one at the end of an
epoch, and in each epoch of the lanes every picture comes once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from stellar_hub.data.sample_seed import block_generator, epoch_permutation
from stellar_hub.data.sources import EncodedPicture
from stellar_hub.data.streams.picture_stream import DamagedShardError, PictureStream

LANE_COUNTS = (96, 48, 24, 12, 8, 6, 4, 3, 2, 1)  # each shared evenly by many numbers of workers and processes
SHUFFLED_AT_ONCE = 2048  # pictures, over all lanes of one process
MOST_IN_SHARD = 2**32  # pictures, for numbers


class Cursor(NamedTuple):
    """How far a lane is: the block of pictures that is shuffled together, and how many of it were given."""

    epoch: int = 0
    place: int = 0  # of the block's first shard, among the lane's in this epoch
    offset: int = 0  # pictures of that shard that lie before the block
    given: int = 0


@dataclass(frozen=True)
class LanePicture:
    """A picture out of a lane.

    Attributes:
        picture: The picture, encoded.
        epoch: Its lane's.
        index: A number of its own: the shard's times 2**32, and its place in the shard.
        cursor: Where to go on after it.
        damaged: Shards that could not be read on since the picture before, each as "shard: reason".
    """

    picture: EncodedPicture
    epoch: int
    index: int
    cursor: Cursor
    damaged: tuple[str, ...]


class Lanes:
    """The lanes of a stream.

    Args:
        stream: What is read.
        seed: Of the order of shards, and of the pictures in each block.
    """

    def __init__(self, stream: PictureStream, seed: int):
        self.stream = stream
        self.seed = seed
        self.count = next(count for count in LANE_COUNTS if count <= len(stream.shards))
        self.block_size = max(16, SHUFFLED_AT_ONCE // self.count)

    def of_process(self, process_index: int, num_processes: int) -> list[int]:
        """The lanes of a process.

        Raises:
            ValueError: if the lanes cannot be shared evenly.
        """
        if self.count % num_processes:
            raise ValueError(
                f"{len(self.stream.shards)} shards make {self.count} lanes, which {num_processes} processes cannot "
                f"share evenly: use {', '.join(str(n) for n in divisors(self.count))} processes, more shards, or the "
                'same files without "stream:"'
            )
        return list(range(process_index, self.count, num_processes))

    def shards(self, lane: int, epoch: int) -> list[int]:
        """The shards a lane reads in an epoch, in its order; all lanes together read each once."""
        return epoch_permutation(self.seed, epoch, len(self.stream.shards))[lane :: self.count].tolist()

    def read(self, lane: int, cursor: Cursor = Cursor()) -> Iterator[LanePicture]:  # noqa: B008  # immutable
        """The pictures of a lane from a place on, without end.

        Raises:
            ValueError: if a whole epoch of the lane had no picture.
        """
        damaged: list[str] = []
        epoch, place, offset, given = cursor
        while True:
            found = False
            for block in self._blocks(lane, epoch, place, offset, damaged):
                found = True
                order = torch.randperm(
                    len(block.pictures),
                    generator=block_generator(self.seed, epoch, lane, block.start[0], block.start[1]),
                )
                for done, which in enumerate(order[given:].tolist(), start=given + 1):
                    index, picture = block.pictures[which]
                    last = done == len(order)
                    after = Cursor(epoch, *block.end) if last else Cursor(epoch, *block.start, done)
                    yield LanePicture(picture, epoch, index, after, tuple(damaged))
                    damaged.clear()
                given = 0
            if not found and (place, offset) == (0, 0):
                names = ", ".join(self.stream.shards[shard] for shard in self.shards(lane, epoch)[:3])
                raise ValueError(f"no pictures in {names}{''.join(f'; {entry}' for entry in damaged)}")
            epoch, place, offset = epoch + 1, 0, 0

    def _blocks(self, lane: int, epoch: int, place: int, offset: int, damaged: list[str]) -> Iterator["Block"]:
        """The blocks of a lane in one epoch, from a place on; a block may reach over several shards."""
        shards = self.shards(lane, epoch)
        start = (place, offset)
        pictures: list[tuple[int, EncodedPicture]] = []
        for number in range(place, len(shards)):
            shard, at = shards[number], 0
            try:
                for at, picture in enumerate(self.stream.read(shard), start=1):
                    if number == place and at <= offset:
                        continue
                    pictures.append((shard * MOST_IN_SHARD + at - 1, picture))
                    if len(pictures) == self.block_size:
                        yield Block(pictures, start, (number, at))
                        pictures, start = [], (number, at)
            except (DamagedShardError, OSError) as error:
                damaged.append(str(error))
        if pictures:
            yield Block(pictures, start, (len(shards), 0))


class Block(NamedTuple):
    """Pictures that are shuffled together.

    Attributes:
        pictures: Each with its number.
        start: Place of the first one's shard, and pictures of it before the block.
        end: The same of what follows.
    """

    pictures: list[tuple[int, EncodedPicture]]
    start: tuple[int, int]
    end: tuple[int, int]


def divisors(number: int) -> list[int]:
    """Ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
