"""Filling the folder of a store, or of a segment: what a plan lacks is extracted, and then the index is written."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from stellar_hub.data.sources import ImageSource, StoredSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.preparation import check_at_least
from stellar_hub.features.processes import Processes
from stellar_hub.store.extract_shards import extract_shards
from stellar_hub.store.files import header_of, open_shard, read_records
from stellar_hub.store.index import StoreIndex, write_index
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import INDEX, Manifest, remove_all_unfinished, shard_path
from stellar_hub.store.plan import encoder_of, owned_shards
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.resume import begin, plan_work, prepare_folder

_logger = getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """The result of one run of an extraction.

    Attributes:
        manifest: Manifest of the store, or of the segment that an append has filled; it has counts if that is complete,
            that is once all processes are done.
        rows: Number of rows that this process extracted in this run.
        errors: Number of these rows that have an error.
        rows_per_second: Rows per second of this process.
        waiting_share: Share of the time that the model waited for images, in [0, 1].
        largest_piece: Largest number of images that went through the model at once because memory did not suffice for
            a batch, else None. The last bits of features may then differ from those of an undisturbed run.
        repaired: One line for each damaged shard that was extracted again.
        num_stale: Number of shards that were extracted again because their images have changed.
        num_retried: Number of rows with an error that were tried again.
        num_recovered: Number of these rows that have features now.
        notes: What the source has passed over, in one line each.
        damaged: Parts of the source that could not be read to their end, in one line each.
        decided: What was measured to decide where options said "auto", in one line each.
        num_appended: Number of new rows that an append has added.
        about_append: What an append has found and done, in one line each.
    """

    manifest: Manifest
    rows: int
    errors: int
    rows_per_second: float
    waiting_share: float
    largest_piece: int | None = None
    repaired: Sequence[str] = ()
    num_stale: int = 0
    num_retried: int = 0
    num_recovered: int = 0
    notes: Sequence[str] = ()
    damaged: Sequence[str] = ()
    decided: Sequence[str] = ()
    num_appended: int = 0
    about_append: Sequence[str] = ()


def fill_store(
    plan: Manifest,
    folder: Path,
    backbone: Backbone,
    source: StoredSource,
    *,
    num_workers: int | None,
    repair: bool,
    processes: Processes,
    show_progress: bool,
    retry_errors: bool = False,
    view: AugmentedView | None = None,
    stop_at_error: bool = False,
) -> ExtractionReport:
    """Extracts what a plan still lacks; `extract_to_store` and the cache of evaluation do it this way.

    Args:
        plan: Manifest of the store, as `make_plan` gives it.
        folder: Folder of the store; it is created if it does not exist.
        backbone: Backbone of the plan.
        source: Source of the plan.
        num_workers: Number of worker processes that read images; None takes the number of cores, at most 8.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        processes: This process among those that share the work.
        show_progress: Whether the first process shows progress on stderr.
        retry_errors: Whether to try rows with an error again.
        view: Augmented view that replaces each whole image.
        stop_at_error: Whether an image that cannot be read ends the work.

    Raises:
        BlockingIOError: if another run uses the store.
        FileExistsError: if the folder is something else, or holds a store of another extraction.
        OSError: if a file cannot be written; the same call resumes the extraction.
        ValueError: if the store is damaged and `repair` is not set, or an image ends the work.
    """
    check_at_least("num_workers", num_workers or 0, 0)
    store = prepare_folder(folder)
    with StoreLock(store, processes.rank, processes.num_processes) as lock:
        if processes.num_processes == 1:
            remove_all_unfinished(store)
        filling = Filling(backbone, lock, processes, num_workers, repair, retry_errors, show_progress)
        return filling.fill(begin(store, plan, repair), store, source, view=view, stop_at_error=stop_at_error)


@dataclass(frozen=True)
class Filling:
    """The work of one run on the folders of a store.

    Attributes:
        backbone: Backbone that computes the features.
        lock: Lock of the store, which this run holds.
        processes: This process among those that share the work.
        num_workers: Number of worker processes that read images; None takes the number of cores, at most 8.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        retry_errors: Whether to try rows with an error again.
        show_progress: Whether the first process shows progress on stderr.
    """

    backbone: Backbone
    lock: StoreLock
    processes: Processes
    num_workers: int | None
    repair: bool
    retry_errors: bool
    show_progress: bool

    def fill(
        self,
        plan: Manifest,
        folder: Path,
        source: ImageSource,
        *,
        kept: Sequence[int] = (),
        view: AugmentedView | None = None,
        stop_at_error: bool = False,
    ) -> ExtractionReport:
        """Extracts what a plan still lacks in its folder, which is that of a store or of a segment.

        Args:
            plan: Manifest in the folder.
            folder: Folder of the shards.
            source: The images; the image of a row has the row as its index.
            kept: Shards that stay as they are though their images have changed.
            view: Augmented view that replaces each whole image.
            stop_at_error: Whether an image that cannot be read ends the work.

        Raises:
            OSError: if a file cannot be written; the same call resumes the extraction.
            ValueError: if the store is damaged and is not to be repaired, or an image ends the work.
        """
        rank, num_processes = self.processes.rank, self.processes.num_processes
        owned = owned_shards(plan, rank, num_processes)
        work = plan_work(folder, plan, source, owned, self.repair, self.retry_errors, kept)
        if (work.shards or work.retried) and plan.counts is not None:
            plan = dataclasses.replace(plan, counts=None)  # until it is complete again
            plan.write(folder)
        total, todo = sum(len(plan.rows_of_shard(number)) for number in owned), work.num_rows(plan)
        encoder = encoder_of(plan, self.backbone)
        with ExtractionProgress(total, total - todo, self.show_progress and rank == 0) as progress:
            recovered = extract_shards(
                plan, folder, work, source, encoder, self.num_workers, progress, view, stop_at_error
            )
        with self.lock.merging():
            plan = complete(folder, plan)
        if encoder.largest_piece is not None:
            _logger.warning("memory did not suffice: the batch size is now %d", encoder.largest_piece)
        return ExtractionReport(
            manifest=plan,
            rows=progress.rows,
            errors=progress.errors,
            rows_per_second=progress.rows_per_second,
            waiting_share=progress.waiting_share,
            largest_piece=encoder.largest_piece,
            repaired=work.repaired,
            num_stale=work.num_stale,
            num_retried=work.num_failed,
            num_recovered=recovered,
            notes=tuple(getattr(source, "notes", ())),
            damaged=tuple(getattr(source, "damaged", ())),
        )


def complete(folder: Path, plan: Manifest) -> Manifest:
    """Writes the index and the counts if all shards exist; a second call changes nothing.

    Returns:
        The manifest of the store; it has no counts while other processes still work on their shards.

    Raises:
        OSError: if a file cannot be written.
    """
    numbers = range(plan.num_shards)
    if not all(shard_path(folder, number).exists() for number in numbers):
        return plan

    def opened(number: int) -> Any:
        return open_shard(shard_path(folder, number), plan.rows_of_shard(number), plan.plan)

    contents = [header_of(opened(number)).sha256 for number in numbers]
    records = (read_records(opened(number)) for number in numbers)
    completed = plan.with_counts(*write_index(folder / INDEX, records, contents))
    StoreIndex(folder / INDEX, completed)
    completed.write(folder)
    return completed
