"""Training batches out of a stream: each the same whatever the number of workers, and where to go on after it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.streams.reading_order import Cursor, Readers, StreamedImage
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples

MAX_TRIES = 1000  # images of a reader in a row that cannot be read


class StreamSamples(IterableDataset[dict[str, Any]]):
    """Samples of some readers, taken from them in turn, without end.

    A sample is what `ViewMaker` makes, and `path`, `skipped`, and `cursor`: the reader, and where it goes on.

    Args:
        readers: Of the stream.
        own: The readers to read, in the order of their turns.
        cursors: Where readers begin; those that are missing from their beginning.
        make: Makes samples of images.
    """

    def __init__(self, readers: Readers, own: list[int], cursors: Mapping[int, Cursor], make: ViewMaker):
        self.readers = readers
        self.own = own
        self.cursors = dict(cursors)
        self.make = make

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # The loader takes samples from its workers in turn as well: with the readers dealt out so, it gives one order.
        own = self.own if worker is None else self.own[worker.id :: worker.num_workers]
        readers = {reader: self.samples(reader) for reader in own}
        while own:
            for reader in own:
                yield next(readers[reader])

    def samples(self, reader: int) -> Iterator[dict[str, Any]]:
        """Those of one reader.

        Raises:
            ValueError: if very many images in a row cannot be read.
        """
        skipped: list[str] = []
        failed = 0
        for found in self.readers.read(reader, self.cursors.get(reader, Cursor())):
            skipped += found.damaged
            try:
                sample = self.make(found.image, sample_generator(self.readers.seed, found.epoch, found.index))
            except (ValueError, OSError) as error:
                skipped.append(reason(found, error))
                failed += 1
                if failed > MAX_TRIES:
                    raise ValueError(f"none of {failed} images could be read; the last was {skipped[-1]}") from error
                continue
            yield {**sample, "path": str(found.image), "skipped": skipped, "cursor": (reader, found.cursor)}
            skipped, failed = [], 0


def reason(found: StreamedImage, error: Exception) -> str:
    """Which image cannot be read, and why."""
    path = str(found.image)
    return f"{path}: {str(error).removeprefix(path).strip(' :')}"


class StreamBatches:
    """The batches of one process: an iterable of what `collate_samples` gives, with `cursors`, reader by reader.

    Args:
        readers: Of the stream.
        make: Makes samples.
        share: Samples of this process in a batch.
        num_batches: How many are given in all, those before `start_batch` included.
        start_batch: The first that is given.
        cursors: Where the readers are after the batches before `start_batch`.
        process_index: Which process this is.
        num_processes: How many there are.
        num_workers: Processes that read; fewer are used where they could not share the readers evenly.
        pin_memory: Whether batches are pinned, for transfer to a GPU.
        worker_init_fn: Called in each worker.

    Raises:
        ValueError: if the readers cannot be shared evenly by the processes.
    """

    def __init__(
        self,
        readers: Readers,
        make: ViewMaker,
        share: int,
        num_batches: int,
        start_batch: int = 0,
        cursors: Mapping[int, Cursor] | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        worker_init_fn: Callable[[int], None] | None = None,
    ):
        own = readers.of_process(process_index, num_processes)
        turn = start_batch * share % len(own)
        workers = max((n for n in range(1, num_workers + 1) if len(own) % n == 0), default=0)
        self.share = share
        self.num_left = num_batches - start_batch
        self.pin_memory = pin_memory
        samples = StreamSamples(readers, own[turn:] + own[:turn], cursors or {}, make)
        ahead: dict[str, Any] = (
            {"prefetch_factor": max(2, 2 * share // workers)} if workers else {}
        )  # two batches, in single samples
        self.loader = DataLoader(samples, batch_size=None, num_workers=workers, worker_init_fn=worker_init_fn, **ahead)

    def __len__(self) -> int:
        return self.num_left

    def __iter__(self) -> Iterator[dict[str, Any]]:
        samples = iter(self.loader)
        for _ in range(self.num_left):
            taken = [next(samples) for _ in range(self.share)]
            batch = collate_samples(taken)
            if self.pin_memory:
                pinned = {name: value.pin_memory() for name, value in batch.items() if isinstance(value, torch.Tensor)}
                batch |= pinned
            yield {**batch, "cursors": dict(sample["cursor"] for sample in taken)}
