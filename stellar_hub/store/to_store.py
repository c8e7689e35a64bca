"""An extraction into a store: begin or go on, do this process's shards, put the index together."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from stellar_hub.data.sources import StoredSource
from stellar_hub.features.processes import LaunchedProcess
from stellar_hub.features.progress import ExtractionProgress
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store.completion import complete, missing_shards, remove_damaged
from stellar_hub.store.index_file import pyarrow
from stellar_hub.store.layout import SHARDS, unknown_files
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import Manifest, differences
from stellar_hub.store.plan import ExtractionOptions, check_source, make_plan, owned_shards
from stellar_hub.store.shard_work import encoder_of, extract_shards

logger = getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """What a run did.

    Attributes:
        manifest: Of the store; it has counts if the store is complete, which it is once all processes are done.
        rows: Rows that this process did now.
        errors: Of these, rows with an error.
        rows_per_second: Of this process.
        waiting_share: Share of its time spent waiting for images, in [0, 1].
        largest_piece: Most images that went through the model at once, where memory did not suffice for a batch;
            else None. Numbers may then differ from those of an undisturbed run in their last bits.
        repaired: What was damaged, one line for each shard.
    """

    manifest: Manifest
    rows: int
    errors: int
    rows_per_second: float
    waiting_share: float
    largest_piece: int | None = None
    repaired: Sequence[str] = ()


def extract_to_store(
    model: StellarModel,
    source: StoredSource,
    folder: str | os.PathLike[str],
    options: ExtractionOptions | None = None,
    *,
    processor: StellarImageProcessor | None = None,
    source_names: Sequence[str] = (),
    num_workers: int = 0,
    repair: bool = False,
    process: LaunchedProcess | None = None,
    show_progress: bool = True,
) -> ExtractionReport:
    """Extract the features of all images of a source into a store, or go on with it.

    The finished store is the same, byte for byte, however often the run was interrupted. Several processes may do this
    at once, each told which one it is; each does its own shards, and the last one puts the index together.

    Args:
        model: On the device to compute on.
        source: As `open_source` or `open_sources` gives it.
        folder: The store's; created if it does not exist.
        options: What to extract and how.
        processor: How images are fitted, to one size; None takes what follows from the model's size.
        source_names: What `open_sources` would open the source by, to be kept in the manifest.
        num_workers: Processes that read and fit images; 0 does it in this one.
        repair: Whether to read all that is there, and do again what is damaged.
        process: Which of several processes this is; None looks into the environment.
        show_progress: Whether to show a bar on stderr; only the first process does.

    Raises:
        BlockingIOError: if another run is using the store.
        FileExistsError: if the folder is something else, or holds a store of another extraction.
        ImportError: if pyarrow is not installed.
        OSError: if a file cannot be written; the same call goes on where it stopped.
        ValueError: if the store is damaged and `repair` is not set, or options do not fit.
    """
    pyarrow()  # before hours of work
    check_source(source)
    process = process or LaunchedProcess.from_environment()
    processor = processor or StellarImageProcessor.from_config(model.config)
    plan = make_plan(model, processor, source, options or ExtractionOptions(), source_names)
    store = prepare_folder(Path(folder))
    with StoreLock(store, process.rank, process.num_processes) as lock:
        plan = begin(store, plan, repair)
        owned = owned_shards(plan, process.rank, process.num_processes)
        repaired = remove_damaged(store, plan, owned) if repair else []
        todo = missing_shards(store, plan, owned)
        if todo and plan.counts is not None:
            plan = dataclasses.replace(plan, counts=None)  # until it is complete again
            plan.write(store)
        rows = {number: len(plan.rows_of_shard(number)) for number in owned}
        done = sum(count for number, count in rows.items() if number not in set(todo))
        encoder = encoder_of(plan, model, processor)
        with ExtractionProgress(sum(rows.values()), done, show_progress and process.rank == 0) as progress:
            extract_shards(plan, store, todo, source, processor, encoder, num_workers, progress)
        with lock.merging():
            plan = complete(store, plan)
    if encoder.largest_piece is not None:
        logger.warning("memory did not suffice: %d images at a time since", encoder.largest_piece)
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
    """Create a store's folder.

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
    """Write the manifest, or find that the store is of this plan; its manifest.

    Raises:
        FileExistsError: if the store is of another extraction, naming what differs.
        ValueError: if its manifest is damaged and `repair` is not set.
    """
    try:
        found = Manifest.read(folder)
    except FileNotFoundError:
        plan.write(folder)
        return plan
    except ValueError as error:
        if not repair:
            raise ValueError(f"{error}; run the same command with --repair to write it anew") from error
        plan.write(folder)
        return plan
    lines = differences(found, plan)
    if lines:
        raise FileExistsError(
            f"{folder} holds a store of another extraction: {'; '.join(lines)}. Go on with its values, or name "
            "another --output"
        )
    return found
