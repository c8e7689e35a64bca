"""The work on the shards of a store: features are computed batch by batch and written shard by shard."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.encoding import BatchEncoder
from stellar_hub.features.preparation import PreparedBatches, batch_loader, refuse_errors
from stellar_hub.features.rows import FeatureBatch
from stellar_hub.store.files import RECORDS, check_content, open_shard, read_records, write_shard
from stellar_hub.store.manifest import Manifest, shard_path
from stellar_hub.store.plan import batches_of
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.resume import Work
from stellar_hub.store.tensor_format import to_stored


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
    """Computes and writes some shards; one shard is written while the next one is computed.

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
    prepared = PreparedBatches(source, encoder.backbone.processor, batches, view)
    loader: Iterable[Any] = batch_loader(prepared, num_workers, pin_memory=encoder.on_gpu)
    waited = progress.waiting_for(refuse_errors(loader) if stop_at_error else loader)
    encoded = encoder.encode_all(waited)
    recovered = 0
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future[int] | None = None
        for number in sorted(parts):
            done = _take(encoded, len(parts[number]), progress)
            if writing is not None:
                recovered += writing.result()
            write = _merge_batches if number in work.retried else _write_batches
            writing = writer.submit(write, plan, folder, number, done, work.stamps.get(number))
        if writing is not None:
            recovered += writing.result()
    return recovered


def _take(encoded: Iterable[FeatureBatch], count: int, progress: ExtractionProgress) -> list[FeatureBatch]:
    taken = []
    for _, batch in zip(range(count), encoded, strict=False):
        progress.update(len(batch), int((~batch.ok).sum()))
        taken.append(batch)
    return taken


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
