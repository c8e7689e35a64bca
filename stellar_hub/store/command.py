"""The work of the command `stellar-hub extract`, without its command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stellar_hub.data.sources import open_sources
from stellar_hub.features.identity import load_model
from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.inference_optimization import pack_linears
from stellar_hub.store.files import open_shard, read_records
from stellar_hub.store.manifest import Manifest, shard_path
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import ExtractionReport, extract_to_store


@dataclass(frozen=True)
class Command:
    """The values of the command's options; each field is one option."""

    sources: Sequence[str]
    output: Path
    model: str
    fit: str
    options: ExtractionOptions
    num_workers: int | None
    device: str
    repair: bool


def extract_by_options(command: Command) -> list[str]:
    """Extracts this process's part of the features.

    Returns:
        The lines to print.

    Raises:
        ValueError: if no image at all could be read, or for the reasons of `extract_to_store`.
    """
    processes = Processes.from_environment()
    source = open_sources(command.sources)
    model, processor = load_for_extraction(command.model, processes.own_device(command.device), command.fit)
    report = extract_to_store(
        model,
        source,
        command.output,
        command.options,
        processor=processor,
        source_names=command.sources,
        num_workers=command.num_workers,
        repair=command.repair,
        processes=processes,
    )
    lines = [f"damaged, extracted again: {line}" for line in report.repaired]
    if report.largest_piece is not None:
        lines.append(
            f"memory did not suffice for batches of {command.options.batch_size}: the batch size is now "
            f"{report.largest_piece}; the last bits of features may differ from those of an undisturbed run"
        )
    return [*lines, _summary(command.output, report)]


def load_for_extraction(name: str, device: str, fit: str) -> tuple[StellarModel, StellarImageProcessor]:
    """Loads a model without its decoder, and its processor; on a CPU, the linear layers are packed for oneDNN.

    `optimize_for_inference` chooses by timing. Chance must not decide here: a store that is resumed has to come out the
    same, byte for byte.

    Raises:
        OSError: if the model does not exist.
        ValueError: if the device or the fit is not available.
    """
    model, processor = load_model(name, device, fit, decoder=False)
    return packed_on_cpu(model), processor


def packed_on_cpu(model: StellarModel) -> StellarModel:
    """Prepares a model for inference, in place, and returns it; on a CPU, this packs its linear layers."""
    model.eval().requires_grad_(False)
    if model.device.type == "cpu":
        pack_linears(model)
    return model


def completed(folder: Path, manifest: Manifest) -> str:
    """Returns one line about a complete store.

    Raises:
        ValueError: if every row has an error.
    """
    counts = manifest.counts or {}
    if not counts["ok"]:
        first = read_records(open_shard(shard_path(folder, 0), manifest.rows_of_shard(0)))[0]
        raise ValueError(f"none of the {manifest.num_rows} images could be read; the first error: {first.error}")
    errors = f"{counts['error']} with an error (see the index)" if counts["error"] else "none with an error"
    return f"{folder}: {manifest.num_rows} rows, {errors}"


def _summary(folder: Path, report: ExtractionReport) -> str:
    now = (
        f"{report.rows} rows now, {report.errors} with an error, {report.rows_per_second:.3g} rows/s, "
        f"{report.waiting_share:.0%} waiting for data"
    )
    if report.manifest.counts is None:
        return f"{folder}: {now}; other processes still work on their shards"
    return f"{completed(folder, report.manifest)} ({now})"
