"""Training batches from a stream: the same for any number of workers, with the place to continue after each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources.image_source import skipped_entry
from stellar_hub.data.streams.reading_order import Cursor, Readers
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.data.workers import ImageLoader, default_num_workers, leave_interrupt_to_parent
from stellar_hub.modeling.image_loading import is_fault_of_machine

MAX_TRIES = 1000  # images of a reader in a row that cannot be read


class StreamParts(IterableDataset[dict[str, Any] | None]):
    """The parts of batches that one worker makes, without end: part k has the worker's samples of batch k.

    The samples of a process come from its readers in turn, and each worker has some of the turns. A part is what
    `collate_samples` returns, so a worker sends a few large tensors: each tensor that is on its way holds a file
    descriptor. But its `skipped` has one list for each sample, and it has `cursors`, where each reader of its samples
    continues. A part without samples is None.

    Args:
        readers: Readers of the stream.
        turns: Numbers of the readers to read, in the order of their turns.
        cursors: Where readers start. A reader without a cursor starts at its beginning.
        view_maker: Maker of the samples.
        batch_size: Number of samples of a batch, over all workers.
    """

    def __init__(
        self,
        readers: Readers,
        turns: list[int],
        cursors: Mapping[int, Cursor],
        view_maker: ViewMaker,
        batch_size: int,
    ):
        self.readers = readers
        self.turns = turns
        self.cursors = dict(cursors)
        self.view_maker = view_maker
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        samples = self._in_turn(self.turns[number::num_workers])
        for batch in count():
            taken = list(islice(samples, len(_places(batch, self.batch_size, number, num_workers))))
            more = {
                "skipped": [sample["skipped"] for sample in taken],
                "cursors": dict(sample["cursor"] for sample in taken),
            }
            yield {**collate_samples(taken), **more} if taken else None

    def _in_turn(self, turns: list[int]) -> Iterator[dict[str, Any]]:
        samples = {reader: self.samples(reader) for reader in turns}
        while turns:
            for reader in turns:
                yield next(samples[reader])

    def samples(self, reader: int) -> Iterator[dict[str, Any]]:
        """Yields the samples of one reader.

        A sample is a dictionary with the entries of `ViewMaker` and

        - `path`: the image;
        - `skipped`: images and shards before it that could not be read, each as "path: reason";
        - `cursor`: the reader, and where it continues.

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
            except Exception as error:
                if is_fault_of_machine(error):
                    raise
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
        multiprocessing_context: How workers start: "fork", "spawn", "forkserver". None: as torch does it.

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
        multiprocessing_context: str | None = None,
    ):
        own = readers.for_process(process_index, num_processes)
        first = start_batch * batch_size % len(own)
        max_workers = default_num_workers() if num_workers is None else num_workers
        workers = max((n for n in range(1, max_workers + 1) if len(own) % n == 0), default=0)
        self.batch_size = batch_size
        self.num_left = num_batches - start_batch
        self.pin_memory = pin_memory
        parts = StreamParts(readers, own[first:] + own[:first], cursors or {}, view_maker, batch_size)
        self.loader: ImageLoader[Any] = ImageLoader(
            parts, workers, worker_init_fn, batch_size=None, multiprocessing_context=multiprocessing_context
        )

    def __len__(self) -> int:
        return self.num_left

    def __iter__(self) -> Iterator[dict[str, Any]]:
        num_parts = max(1, self.loader.num_workers)
        parts = iter(self.loader)  # they come from the workers in turn
        for number in range(self.num_left):
            places = [_places(number, self.batch_size, worker, num_parts) for worker in range(num_parts)]
            batch = merge_parts(list(islice(parts, num_parts)), places)
            if self.pin_memory:
                batch |= {name: value.pin_memory() for name, value in batch.items() if isinstance(value, Tensor)}
            yield batch


def _places(batch: int, batch_size: int, worker: int, num_workers: int) -> range:
    """Returns the places in a batch of the samples of one worker."""
    return range((worker - batch * batch_size) % num_workers, batch_size, num_workers)


def merge_parts(parts: Sequence[dict[str, Any] | None], places: Sequence[range]) -> dict[str, Any]:
    """Puts the parts of a batch together: a part's samples go to its places.

    Args:
        parts: Items of `StreamParts`, one for each worker.
        places: Places of each part's samples in the batch.
    """
    own = [(part, place) for part, place in zip(parts, places, strict=True) if part is not None]
    size = sum(len(place) for _, place in own)
    batch: dict[str, Any] = {}
    for name, first in own[0][0].items():
        values = [(part[name], place) for part, place in own]
        if isinstance(first, Tensor):
            batch[name] = first if len(own) == 1 else _merge_tensors(values, size)
        elif isinstance(first, list):
            batch[name] = _merge_lists(values, size)
    batch["skipped"] = [entry for entries in batch["skipped"] for entry in entries]
    batch["cursors"] = {reader: cursor for part, _ in own for reader, cursor in part["cursors"].items()}
    return batch


def _merge_lists(parts: Sequence[tuple[list[Any], range]], size: int) -> list[Any]:
    merged: list[Any] = [None] * size
    for values, place in parts:
        merged[place.start :: place.step] = values
    return merged


def _merge_tensors(parts: Sequence[tuple[Tensor, range]], size: int) -> Tensor:
    """Puts the rows of parts together; each sample has equally many rows, such as one for each of its views."""
    tensor, place = parts[0]
    per_sample = len(tensor) // len(place)
    merged = tensor.new_empty(size, per_sample, *tensor.shape[1:])
    for tensor, place in parts:
        merged[place.start :: place.step] = tensor.unflatten(0, (len(place), per_sample))
    return merged.flatten(0, 1)
