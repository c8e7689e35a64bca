"""An extraction into a store: begin or resume it, extract the shards of this process, and complete the store."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from stellar_hub.data.sources import StoredSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.preparation import check_at_least
from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store.files import check_shard, open_index, open_shard, pyarrow, read_records, write_index
from stellar_hub.store.manifest import (
    INDEX,
    MANIFEST,
    SHARDS,
    Manifest,
    StoreLock,
    differences,
    remove_unfinished,
    shard_path,
    unknown_files,
)
from stellar_hub.store.plan import (
    ExtractionOptions,
    check_source,
    encoder_of,
    extract_shards,
    make_plan,
    owned_shards,
)
from stellar_hub.store.progress import ExtractionProgress

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
    """

    manifest: Manifest
    rows: int
    errors: int
    rows_per_second: float
    waiting_share: float
    largest_piece: int | None = None
    repaired: Sequence[str] = ()


def extract_to_store(
    model: StellarModel | Backbone,
    source: StoredSource,
    folder: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    processor: StellarImageProcessor | None = None,
    source_names: Sequence[str] = (),
    num_workers: int | None = None,
    repair: bool = False,
    processes: Processes | None = None,
    show_progress: bool = True,
) -> ExtractionReport:
    """Extracts the features of all images of a source into a store, or resumes an extraction.

    The finished store is the same, byte for byte, however often the run was interrupted. Several processes may extract
    into one store at once, each with its own rank: each extracts its own shards, and the last one writes the index.

    Args:
        model: STELLAR model on its device, or a backbone as `open_backbone` opens it.
        source: Source of images, as `open_source` or `open_sources` gives it.
        folder: Folder of the store; it is created if it does not exist.
        options: Options that decide the content of the store.
        processor: Processor that fits the images to one size; None takes the one that belongs to the model's size.
        source_names: Names that `open_sources` opens the source by; the manifest keeps them.
        num_workers: Number of worker processes that read images. None takes the number of cores, at most 8; 0 reads in
            this process.
        repair: Whether to read everything that is there, and to extract damaged shards again.
        processes: This process among those that share the work; None reads it from the environment.
        show_progress: Whether to show progress on stderr; only the first process does.

    Raises:
        BlockingIOError: if another run uses the store.
        FileExistsError: if the folder is something else, or holds a store of another extraction.
        ImportError: if pyarrow is not installed.
        OSError: if a file cannot be written; the same call resumes the extraction.
        ValueError: if the store is damaged and `repair` is not set, or options do not fit.
    """
    pyarrow()  # before hours of work
    check_source(source)
    backbone = as_backbone(model, processor)
    plan = make_plan(backbone, source, options or ExtractionOptions(), source_names)
    return fill_store(
        plan,
        Path(folder),
        backbone,
        source,
        num_workers=num_workers,
        repair=repair,
        processes=processes or Processes.from_environment(),
        show_progress=show_progress,
    )


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
        plan = begin(store, plan, repair)
        owned = owned_shards(plan, rank, num_processes)
        repaired = remove_damaged(store, plan, owned) if repair else []
        todo = missing_shards(store, plan, owned)
        if todo and plan.counts is not None:
            plan = dataclasses.replace(plan, counts=None)  # until it is complete again
            plan.write(store)
        rows = {number: len(plan.rows_of_shard(number)) for number in owned}
        done = sum(count for number, count in rows.items() if number not in set(todo))
        encoder = encoder_of(plan, backbone)
        with ExtractionProgress(sum(rows.values()), done, show_progress and rank == 0) as progress:
            extract_shards(plan, store, todo, source, encoder, num_workers, progress, view, stop_at_error)
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
        repaired=repaired,
    )


def prepare_folder(folder: Path) -> Path:
    """Creates the folder of a store and returns it.

    Raises:
        FileExistsError: if it is a file, or holds something else.
        OSError: if it cannot be created.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder for the store")
    if folder.is_dir() and (others := unknown_files(folder)):
        raise FileExistsError(f"{folder} holds something else ({others[0]}): name a new folder for the store")
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    return folder


def begin(folder: Path, plan: Manifest, repair: bool) -> Manifest:
    """Writes the manifest of a new store, or checks that the store has this plan; returns the store's manifest.

    Raises:
        FileExistsError: if the store has another plan; the message names the differences.
        ValueError: if its manifest is damaged and `repair` is not set.
    """
    try:
        found = Manifest.read(folder)
    except FileNotFoundError:
        plan.write(folder)
        return plan
    except ValueError as error:
        if not repair:
            raise ValueError(f"{error}; run the same command with --repair to write it again") from error
        plan.write(folder)
        return plan
    lines = differences(found, plan)
    if lines:
        raise FileExistsError(
            f"{folder} holds a store of another extraction: {'; '.join(lines)}. Use the values of the store, or name "
            "another --output"
        )
    return found


def missing_shards(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[int]:
    """Returns those of some shards that do not exist yet.

    Raises:
        ValueError: if one exists but is cut short, unreadable or of another extraction; the message names its rows.
    """
    missing = []
    for number in shards:
        path = shard_path(folder, number)
        if not path.exists():
            missing.append(number)
            continue
        try:
            open_shard(path, plan.rows_of_shard(number), plan.plan)
        except ValueError as error:
            raise ValueError(f"{error}; run the same command with --repair to extract only these rows again") from error
    return missing


def remove_damaged(folder: Path, plan: Manifest, shards: Iterable[int]) -> list[str]:
    """Reads some shards and removes the damaged ones; returns one line for each, which names its rows."""
    removed = []
    for number in shards:
        path = shard_path(folder, number)
        if not path.exists():
            continue
        try:
            check_shard(path, plan.rows_of_shard(number), plan.plan)
        except ValueError as error:
            removed.append(str(error))
            path.unlink()
    return removed


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
    records = (
        read_records(open_shard(shard_path(folder, number), plan.rows_of_shard(number), plan.plan))
        for number in numbers
    )
    completed = plan.with_counts(*write_index(folder / INDEX, records))
    open_index(folder / INDEX, plan.num_rows)
    remove_unfinished(folder / MANIFEST)
    completed.write(folder)
    return completed
