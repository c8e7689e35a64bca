"""The work of the command `stellar-hub extract`, without its command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.data.sources.files import counted
from stellar_hub.features.identity import load_model
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.inference_variants import pack_linears
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.fill import ExtractionReport
from stellar_hub.store.manifest import INDEX
from stellar_hub.store.parts import open_parts
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.resume import check_apart
from stellar_hub.store.to_store import extract_to_store

MAX_NAMED_ERRORS = 5  # rows with an error that the lines at the end name
_LONG_WAIT, _MANY_ROWS = 0.2, 10_000  # share of the time that a GPU waits, and rows, from which on it is said


@dataclass(frozen=True)
class Command:
    """The values of the command's options; each field is one option.

    `image_size` is the side of a square, or height and width; None keeps the size of the model's processor. `root` is
    the folder below which tables may name files; None allows none. `append` adds new images to a complete store.
    """

    sources: Sequence[str]
    output: Path
    model: str
    fit: str
    options: ExtractionOptions
    num_workers: int | None
    device: str
    repair: bool
    retry_errors: bool = False
    image_size: int | tuple[int, int] | None = None
    root: Path | None = None
    append: bool = False


def extract_by_options(command: Command, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Extracts this process's part of the features.

    Args:
        command: Values of the command's options.
        say: Function that shows a line about the source while the work begins.

    Returns:
        The lines to print.

    Raises:
        ValueError: if no image at all could be read, or for the reasons of `extract_to_store`.
    """
    processes = Processes.from_environment()
    source = open_for_extraction(command, say if processes.is_main else lambda line: None)
    device = processes.own_device(command.device)
    model, processor = load_for_extraction(command.model, device, command.fit, command.image_size)
    report = extract_to_store(
        model,
        source,
        command.output,
        command.options,
        processor=processor,
        source_names=command.sources,
        num_workers=command.num_workers,
        repair=command.repair,
        retry_errors=command.retry_errors,
        append=command.append,
        processes=processes,
    )
    lines = [*report.decided, *report.about_append, *what_was_redone(report.repaired, report.num_stale)]
    if command.retry_errors:
        lines.append(what_was_retried(report.num_retried, report.num_recovered))
    if report.largest_piece is not None:
        lines.append(
            f"memory did not suffice for batches of {command.options.batch_size}: the batch size is now "
            f"{report.largest_piece}; the last bits of features may differ from those of an undisturbed run"
        )
    if report.waiting_share > _LONG_WAIT and report.rows > _MANY_ROWS and model.device.type == "cuda":
        lines.append("the GPU waited for images: raise --num-workers, or begin a store with --decoder auto")
    return [*lines, *_summary(command.output, report)]


def open_for_extraction(command: Command, say: Callable[[str], None]) -> JoinedSources:
    """Opens the sources of a command, and says what they have passed over and what is damaged.

    Raises:
        OSError, ValueError, ImportError: for the reasons of `open_sources`.
        ValueError: if the folder of the store and a folder of images do not lie apart.
    """
    source = open_sources(command.sources, root=command.root)
    check_apart(command.output, source, command.sources)
    for line in source.notes:
        say(f"note: {line}")
    for line in source.damaged:
        say(f"damaged: {line}")
    return source


def what_was_redone(repaired: Sequence[str], num_stale: int) -> list[str]:
    """Returns lines about the shards of a store that were extracted again."""
    lines = [f"damaged, extracted again: {line}" for line in repaired]
    if num_stale:
        lines.append(f"images have changed, extracted again: {num_stale} shards")
    return lines


def load_for_extraction(
    name: str, device: str, fit: str, image_size: int | tuple[int, int] | None = None
) -> tuple[StellarModel, StellarImageProcessor]:
    """Loads a model without its decoder, and its processor; on a CPU, the linear layers are packed for oneDNN.

    `optimize_for_inference` chooses by timing. Chance must not decide here: a store that is resumed has to come out the
    same, byte for byte.

    Raises:
        OSError: if the model does not exist.
        ValueError: if the device or the fit is not available.
    """
    model, processor = load_model(name, device, fit, decoder=False, image_size=image_size)
    return packed_on_cpu(model), processor


def packed_on_cpu(model: StellarModel) -> StellarModel:
    """Prepares a model for inference, in place, and returns it; on a CPU, this packs its linear layers."""
    model.eval().requires_grad_(False)
    if model.device.type == "cpu":
        pack_linears(model)
    return model


def completed(folder: Path, now: str, retried: bool = False) -> list[str]:
    """Returns the lines about a complete store: its first rows with an error, and a summary.

    Args:
        folder: Folder of the store.
        now: What this run has done, in words.
        retried: Whether this run has tried rows with an error again.

    Raises:
        ValueError: if every row has an error.
    """
    parts = open_parts(folder)
    num_rows = parts[-1].manifest.rows.stop
    num_errors = sum((part.manifest.counts or {})["error"] for part in parts)
    rows = f"{num_rows} row{'s' * (num_rows != 1)}"
    if not num_errors:
        return [f"{folder}: {rows}, none with an error ({now})"]
    failed = (record for part in parts for record in part.index.first_errors(MAX_NAMED_ERRORS))
    named = [_named_error(record) for record in islice(failed, MAX_NAMED_ERRORS)]
    if num_errors == num_rows:
        raise ValueError(f"none of the {num_rows} images could be read; the first error: {named[0]}")
    if num_errors > len(named):
        column = f"the column error of {folder / INDEX}" + " and of the index of each segment" * (len(parts) > 1)
        named.append(f"{num_errors - len(named)} more: {column} {'have' if len(parts) > 1 else 'has'} them all")
    summary = f"{folder}: {rows}, {num_errors} with an error ({now})"
    passing = sum(part.index.num_passing() for part in parts)
    if passing:
        summary += f"; {passing} of them not the images' fault: try these again with --retry-errors"
    elif not retried:
        summary += "; --retry-errors tries them again"
    return [*(f"error: {line}" for line in named), summary]


def _named_error(record: ImageRecord) -> str:
    """Returns "NAME: reason" for a row with an error; a reason that has the name stays as it is."""
    reason = one_line(record.error)
    return reason if record.image in reason else f"{record.image}: {reason}"


def _summary(folder: Path, report: ExtractionReport) -> list[str]:
    now = f"{report.rows} now, {report.rows_per_second:.3g} rows/s, {report.waiting_share:.0%} waiting for data"
    if report.damaged:
        now += f"; {spell_damaged(report.damaged)}"
    if report.manifest.counts is None:
        return [f"{folder}: {report.errors} with an error so far ({now}); other processes still work on their shards"]
    return completed(folder, now, retried=report.num_retried > 0)


def what_was_retried(num_retried: int, num_recovered: int) -> str:
    """Returns a line about the rows with an error that were extracted again."""
    rows = counted(num_retried, "row with an error", "rows with an error")
    return f"tried again: {rows}; features now: {num_recovered}"


def spell_damaged(damaged: Sequence[str]) -> str:
    """Returns how many parts of a source are damaged, in words."""
    return f"{len(damaged)} damaged part{'s' if len(damaged) > 1 else ''} of the source (see above)"
