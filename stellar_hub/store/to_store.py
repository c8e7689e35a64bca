"""An extraction into a store: begin or resume it, extract the shards of this process, and complete the store."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from stellar_hub.data.sources import StoredSource, open_sources
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.preparation import check_at_least
from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store.decisions import decide
from stellar_hub.store.extract_shards import extract_shards
from stellar_hub.store.files import header_of, open_shard, pyarrow, read_records
from stellar_hub.store.index import StoreIndex, write_index
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import INDEX, Manifest, remove_all_unfinished, shard_path
from stellar_hub.store.plan import (
    ExtractionOptions,
    check_source,
    encoder_of,
    make_plan,
    owned_shards,
)
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.resume import begin, check_apart, plan_work, prepare_folder

_logger = getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """The result of one run of an extraction.

    Attributes:
        manifest: Manifest of the store; it has counts if the store is complete, that is once all processes are done.
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


def extract_to_store(
    model: StellarModel | Backbone,
    source: StoredSource | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    processor: StellarImageProcessor | None = None,
    source_names: Sequence[str] = (),
    num_workers: int | None = None,
    repair: bool = False,
    retry_errors: bool = False,
    processes: Processes | None = None,
    show_progress: bool = True,
) -> ExtractionReport:
    """Extracts the features of all images of a source into a store, or resumes an extraction.

    The finished store is the same, byte for byte, however often the run was interrupted. Several processes may extract
    into one store at once, each with its own rank: each extracts its own shards, and the last one writes the index.
    Shards whose images have another size or modification time than when they were written are extracted again.

    Args:
        model: STELLAR model on its device, or a backbone as `open_backbone` opens it.
        source: Source of images, as `open_source` or `open_sources` gives it; or the name of one, such as a folder, or
            a list of names, as `open_source` takes them.
        folder: Folder of the store; it is created if it does not exist.
        options: Options that decide the content of the store.
        processor: Processor that fits the images to one size; None takes the one that belongs to the model's size.
        source_names: Names that `open_sources` opens the source by; the manifest keeps them. A source that is given by
            its name needs none.
        num_workers: Number of worker processes that read images. None takes the number of cores, at most 8; 0 reads in
            this process.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        retry_errors: Whether to try rows with an error again, for example after a network disk was away. A row that
            has features keeps them.
        processes: This process among those that share the work; None reads it from the environment.
        show_progress: Whether to show progress on stderr; only the first process does.

    Raises:
        BlockingIOError: if another run uses the store.
        FileExistsError: if the folder is something else, or holds a store of another extraction.
        ImportError: if pyarrow is not installed.
        OSError: if a file cannot be written; the same call resumes the extraction.
        ValueError: if the store is damaged and `repair` is not set, options do not fit or do not work on the device, or
            the folder of the store and a folder of images do not lie apart.
    """
    pyarrow()  # before hours of work
    source, source_names = _opened(source, source_names)
    check_source(source)
    check_apart(Path(folder), source, source_names)
    backbone = as_backbone(model, processor)
    processes = processes or Processes.from_environment()
    options, decided = decide(
        options or ExtractionOptions(),
        folder,
        backbone,
        source,
        num_workers=num_workers,
        num_processes=processes.num_processes,
    )
    report = fill_store(
        make_plan(backbone, source, options, source_names),
        Path(folder),
        backbone,
        source,
        num_workers=num_workers,
        repair=repair,
        retry_errors=retry_errors,
        processes=processes,
        show_progress=show_progress,
    )
    return dataclasses.replace(report, decided=tuple(decided))


def _opened(source: Any, names: Sequence[str]) -> tuple[StoredSource, Sequence[str]]:
    """Returns a source, opened if it is given by its names, and its names."""
    given = [source] if isinstance(source, str | os.PathLike) else source
    if not (isinstance(given, list | tuple) and given and all(isinstance(each, str | os.PathLike) for each in given)):
        return source, names
    return open_sources(given), names or [os.fspath(each) for each in given]


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
    rank, num_processes = processes.rank, processes.num_processes
    store = prepare_folder(folder)
    with StoreLock(store, rank, num_processes) as lock:
        if num_processes == 1:
            remove_all_unfinished(store)
        plan = begin(store, plan, repair)
        owned = owned_shards(plan, rank, num_processes)
        work = plan_work(store, plan, source, owned, repair, retry_errors)
        if (work.shards or work.retried) and plan.counts is not None:
            plan = dataclasses.replace(plan, counts=None)  # until it is complete again
            plan.write(store)
        total, todo = sum(len(plan.rows_of_shard(number)) for number in owned), work.num_rows(plan)
        encoder = encoder_of(plan, backbone)
        with ExtractionProgress(total, total - todo, show_progress and rank == 0) as progress:
            recovered = extract_shards(plan, store, work, source, encoder, num_workers, progress, view, stop_at_error)
        with lock.merging():
            plan = complete(store, plan)
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
