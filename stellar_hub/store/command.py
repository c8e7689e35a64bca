"""What the options of `stellar-hub extract` amount to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stellar_hub.data.sources import open_sources
from stellar_hub.features.processes import LaunchedProcess
from stellar_hub.store.layout import shard_path
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.shard_file import open_shard, read_records
from stellar_hub.store.shard_work import load_for_extraction
from stellar_hub.store.to_store import ExtractionReport, extract_to_store


@dataclass(frozen=True)
class Command:
    """What was asked for on the command line; each field is an option's value."""

    sources: Sequence[str]
    output: Path
    model: str
    fit: str
    options: ExtractionOptions
    num_workers: int
    device: str
    repair: bool


def extract_by_options(command: Command) -> list[str]:
    """Extract, in this process's part.

    Returns:
        What there is to say.

    Raises:
        ValueError: if no image at all could be read; and what `extract_to_store` raises.
    """
    process = LaunchedProcess.from_environment()
    source = open_sources(command.sources)
    model, processor = load_for_extraction(command.model, own_device(command.device, process), command.fit)
    report = extract_to_store(
        model,
        source,
        command.output,
        command.options,
        processor=processor,
        source_names=command.sources,
        num_workers=command.num_workers,
        repair=command.repair,
        process=process,
    )
    lines = [f"damaged, done again: {line}" for line in report.repaired]
    if report.largest_piece is not None:
        lines.append(
            f"memory did not suffice for batches of {command.options.batch_size}: {report.largest_piece} images at a "
            "time since; features may differ from those of an undisturbed run in their last bits"
        )
    return [*lines, summary(command.output, report)]


def own_device(device: str, process: LaunchedProcess) -> str:
    """The device of this process: where each may choose, its own GPU."""
    if device in ("auto", "cuda") and torch.cuda.is_available() and process.num_processes > 1:
        return f"cuda:{process.local_rank % torch.cuda.device_count()}"
    return device


def summary(folder: Path, report: ExtractionReport) -> str:
    """One line about the store, as it is now.

    Raises:
        ValueError: if the store is complete and every row has an error.
    """
    now = (
        f"{report.rows} rows now, {report.errors} with an error, {report.rows_per_second:.3g} rows/s, "
        f"{report.waiting_share:.0%} waiting for data"
    )
    if report.manifest.counts is None:
        return f"{folder}: {now}; the shards of other processes are still missing"
    return f"{completed(folder, report.manifest)} ({now})"


def completed(folder: Path, manifest: Manifest) -> str:
    """One line about a complete store.

    Raises:
        ValueError: if every row has an error.
    """
    counts = manifest.counts or {}
    if not counts["ok"]:
        first = read_records(open_shard(shard_path(folder, 0), manifest.rows_of_shard(0)))[0]
        raise ValueError(f"none of the {manifest.num_rows} images could be read; the first: {first.error}")
    errors = f"{counts['error']} with an error, which the index tells" if counts["error"] else "none with an error"
    return f"{folder}: {manifest.num_rows} rows, {errors}"
