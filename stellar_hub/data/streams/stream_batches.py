"""Training batches from a stream: the same for any number of workers, with the place to continue after each."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources.image_source import skipped_entry
from stellar_hub.data.streams.reading_order import Cursor, Readers
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.data.workers import default_num_workers, leave_interrupt_to_parent

MAX_TRIES = 1000  # images of a reader in a row that cannot be read


class StreamSamples(IterableDataset[dict[str, Any]]):
    """Samples of some readers, taken from the readers in turn, without end.

    A sample is a dictionary with the entries of `ViewMaker` and

    - `path`: the image;
    - `skipped`: images and shards before it that could not be read, each as "path: reason";
    - `cursor`: the reader, and where it continues.

    Args:
        readers: Readers of the stream.
        turns: Numbers of the readers to read, in the order of their turns.
        cursors: Where readers start. A reader without a cursor starts at its beginning.
        view_maker: Maker of the samples.
    """

    def __init__(self, readers: Readers, turns: list[int], cursors: Mapping[int, Cursor], view_maker: ViewMaker):
        self.readers = readers
        self.turns = turns
        self.cursors = dict(cursors)
        self.view_maker = view_maker

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # The loader also takes samples from its workers in turn, so this division keeps the order of one process.
        turns = self.turns if worker is None else self.turns[worker.id :: worker.num_workers]
        samples = {reader: self.samples(reader) for reader in turns}
        while turns:
            for reader in turns:
                yield next(samples[reader])

    def samples(self, reader: int) -> Iterator[dict[str, Any]]:
        """Yields the samples of one reader.

        Raises:
            ValueError: if more than 1000 images in a row cannot be read.
        """
        skipped: list[str] = []
        num_failed = 0
        for streamed in self.readers.read(reader, self.cursors.get(reader, Cursor())):
            skipped += streamed.damaged
            generator = sample_generator(self.readers.seed, streamed.epoch, streamed.index)
            try:
                sample = self.view_maker(streamed.image, generator)
            except (ValueError, OSError) as error:
                skipped.append(skipped_entry(streamed.image, error))
                num_failed += 1
                if num_failed > MAX_TRIES:
                    message = f"none of {num_failed} images could be read; the last was {skipped[-1]}"
                    raise ValueError(message) from error
                continue
            yield {**sample, "path": str(streamed.image), "skipped": skipped, "cursor": (reader, streamed.cursor)}
            skipped, num_failed = [], 0


class StreamBatches:
    """The batches of one process as an iterable of what `collate_samples` returns.

    Each batch also has `cursors`: where each reader of its samples continues.

    Args:
        readers: Readers of the stream.
        view_maker: Maker of the samples.
        batch_size: Number of samples per batch of this process.
        num_batches: Number of batches of the whole run, those before `start_batch` included.
        start_batch: First batch to return.
        cursors: Where the readers are after the batches before `start_batch`.
        process_index: Index of this process.
        num_processes: Number of processes.
        num_workers: Maximum number of worker processes that read images. Fewer run if they could not share the readers
            evenly. None: number of cores, at most 8. 0 reads in this process.
        pin_memory: Whether batches are pinned for a faster transfer to a GPU.
        worker_init_fn: Function that each worker process calls first, with its index. Default: ignores Ctrl-C.

    Raises:
        ValueError: if the processes cannot share the readers evenly.
    """

    def __init__(
        self,
        readers: Readers,
        view_maker: ViewMaker,
        batch_size: int,
        num_batches: int,
        start_batch: int = 0,
        cursors: Mapping[int, Cursor] | None = None,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int | None = None,
        pin_memory: bool = False,
        worker_init_fn: Callable[[int], None] = leave_interrupt_to_parent,
    ):
        own = readers.for_process(process_index, num_processes)
        first = start_batch * batch_size % len(own)
        max_workers = default_num_workers() if num_workers is None else num_workers
        workers = max((n for n in range(1, max_workers + 1) if len(own) % n == 0), default=0)
        self.batch_size = batch_size
        self.num_left = num_batches - start_batch
        self.pin_memory = pin_memory
        samples = StreamSamples(readers, own[first:] + own[:first], cursors or {}, view_maker)
        prefetch_factor = max(2, 2 * batch_size // workers) if workers else None  # single samples: two batches
        self.loader = DataLoader(
            samples,
            batch_size=None,
            num_workers=workers,
            worker_init_fn=worker_init_fn,
            prefetch_factor=prefetch_factor,
        )

    def __len__(self) -> int:
        return self.num_left

    def __iter__(self) -> Iterator[dict[str, Any]]:
        samples = iter(self.loader)
        for _ in range(self.num_left):
            taken = [next(samples) for _ in range(self.batch_size)]
            batch = collate_samples(taken)
            if self.pin_memory:
                pinned = {name: value.pin_memory() for name, value in batch.items() if isinstance(value, torch.Tensor)}
                batch |= pinned
            yield {**batch, "cursors": dict(sample["cursor"] for sample in taken)}
