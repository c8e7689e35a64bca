"""The work on the shards of a store: features are computed batch by batch and written shard by shard."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.encoding import BatchEncoder
from stellar_hub.features.preparation import PreparedBatch, PreparedBatches, batch_loader, refuse_errors
from stellar_hub.features.rows import FeatureBatch
from stellar_hub.store.files import RECORDS, check_content, open_shard, read_records, write_shard
from stellar_hub.store.manifest import Manifest, shard_path
from stellar_hub.store.plan import batches_of, jpeg_decoder_of
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.resume import Work
from stellar_hub.store.tensor_format import to_stored

_MOST_QUEUED = 1  # shards that wait while one is written


def extract_shards(
    plan: Manifest,
    folder: Path,
    work: Work,
    source: ImageSource,
    encoder: BatchEncoder,
    num_workers: int | None,
    progress: ExtractionProgress,
    view: AugmentedView | None = None,
    stop_at_error: bool = False,
) -> int:
    """Computes and writes some shards; shards are written while the next ones are computed.

    Args:
        plan: Plan of the store.
        folder: Folder of the store.
        work: Shards to extract, and batches of shards to extract again.
        source: The images.
        encoder: Encoder of the plan.
        num_workers: Number of worker processes that read images; None takes the number of cores, at most 8.
        progress: Counts the rows.
        view: Augmented view that replaces the whole image.
        stop_at_error: Whether an image that cannot be read ends the work.

    Returns:
        The number of rows that had an error and have features now.

    Raises:
        OSError: if a shard cannot be written, for example because the disk is full; no part of it stays.
        ValueError: if an image cannot be read and that ends the work.
    """
    parts = {number: batches_of(plan, number) for number in work.shards} | dict(work.retried)
    batches = [batch for number in sorted(parts) for batch in parts[number]]
    if not batches:
        return 0
    decoder = jpeg_decoder_of(plan, encoder.backbone)
    prepared = PreparedBatches(source, encoder.backbone.processor, batches, view, keep_jpegs=decoder is not None)
    loader: Iterable[PreparedBatch] = batch_loader(prepared, num_workers, pin_memory=encoder.on_gpu)
    whole = loader if decoder is None else decoder.decode_all(loader)
    waited = progress.waiting_for(refuse_errors(whole) if stop_at_error else whole)
    encoded = encoder.encode_all(waited)
    with ShardWriter() as writer:
        for number in sorted(parts):
            done = []
            for batch in islice(encoded, len(parts[number])):
                progress.update(len(batch), int((~batch.ok).sum()))
                done.append(batch)
                writer.raise_errors()
            write = _merge_batches if number in work.retried else _write_batches
            writer.submit(write, plan, folder, number, done, work.stamps.get(number))
    return writer.recovered


class ShardWriter:
    """A thread that writes shards, in order, while the next ones are computed.

    Leaving the block waits for all shards; after an error, those that are not begun are not written.

    Attributes:
        recovered: Number of rows that had an error and have features now, of the shards that are written.
    """

    def __init__(self) -> None:
        self.recovered = 0
        self._failed = False
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: deque[Future[int]] = deque()

    def submit(self, write: Callable[..., int], *arguments: Any) -> None:
        """Adds a shard, which `write` writes; waits first if there are too many already.

        Raises:
            OSError: if an earlier shard cannot be written.
        """
        while len(self._writing) > _MOST_QUEUED:
            self.recovered += self._writing.popleft().result()
        self._writing.append(self._thread.submit(self._write, write, *arguments))

    def _write(self, write: Callable[..., int], *arguments: Any) -> int:
        if self._failed:  # nothing is written after a shard that could not be
            return 0
        try:
            return write(*arguments)
        except BaseException:
            self._failed = True
            raise

    def raise_errors(self) -> None:
        """Raises the error of a shard that could not be written, as soon as it is known."""
        while self._writing and self._writing[0].done():
            self.recovered += self._writing.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._writing and error is None:
                self.recovered += self._writing.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)


def _write_batches(
    plan: Manifest, folder: Path, number: int, batches: Sequence[FeatureBatch], stamps: str | None
) -> int:
    """Writes a shard out of all its batches."""
    stored = [to_stored(batch.features, plan.features["dtype"]) for batch in batches]
    tensors = {name: torch.cat([part[name] for part in stored]) for name in stored[0]}
    records = [record for batch in batches for record in batch.records]
    write_shard(shard_path(folder, number), plan.rows_of_shard(number), tensors, records, plan.plan, stamps)
    return 0


def _merge_batches(
    plan: Manifest, folder: Path, number: int, batches: Sequence[FeatureBatch], stamps: str | None
) -> int:
    """Replaces batches of a shard, and returns how many of its failed rows have features now.

    A row that had features and fails now keeps what it had. If nothing has changed, nothing is written.
    """
    path, rows = shard_path(folder, number), plan.rows_of_shard(number)
    file = open_shard(path, rows, plan.plan)
    check_content(file, path, rows)
    tensors = {name: file.get_tensor(name).clone() for name in file.keys() if name != RECORDS}  # noqa: SIM118
    before = read_records(file)
    records = list(before)
    for batch in batches:
        stored = to_stored(batch.features, plan.features["dtype"])
        for index, record in enumerate(batch.records):
            place = record.row - rows.start
            if record.error is not None and before[place].error is None:
                continue
            records[place] = record
            for name, tensor in stored.items():
                tensors[name][place] = tensor[index]
    if records != before:
        write_shard(path, rows, tensors, records, plan.plan, stamps)
    return sum(old.error is not None and new.error is None for old, new in zip(before, records, strict=True))
