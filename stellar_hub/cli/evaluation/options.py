"""The options that all evaluation commands share, and the steps that all of them take."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug, Device, ModelName, Overwrite

if TYPE_CHECKING:
    from stellar_hub.evaluation import Report, RunSettings, SegmentationSplits, Splits
    from stellar_hub.features.backbones import Backbone

LABELLED = (
    "a folder of class folders, a table of paths and labels (.csv, .csv:SPLIT), tables of images (.parquet), "
    "or hub:OWNER/NAME:SPLIT"
)
Train = Annotated[str, typer.Option("--train", help=f"Labelled images to learn from: {LABELLED}.")]
Test = Annotated[str, typer.Option("--test", help="Labelled images to measure on, in any format that --train accepts.")]
AllowShared = Annotated[
    bool, typer.Option("--allow-shared", help="Accept test images that are in train too, instead of an error.")
]
Stores = Annotated[
    list[Path] | None,
    typer.Option(
        "--store",
        help="Feature store from `stellar-hub extract` with these images; the features of its model are read, not "
        "computed. Repeat the option for several stores.",
    ),
]


@dataclass(frozen=True)
class Options:
    """The options that all evaluation commands share, as the user gave them."""

    model: ModelName = "stellar-tiny"
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="NAME[:random|:PATH]",
            help="Another model for the table: a STELLAR, timm or transformers model, or `pixels`. NAME:random has "
            "random weights, NAME:PATH weights from a file or folder. Repeat the option for several models.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write figures and a JSON with the whole protocol to."),
    ] = None
    update_card: Annotated[
        Path | None, typer.Option("--update-card", help="Model card (README.md) to write the table into.")
    ] = None
    overwrite: Overwrite = False
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder to keep features in. An interrupted command continues from them."),
    ] = None
    batch_size: Annotated[int, typer.Option("--batch-size", help="Number of images per forward pass.")] = 32
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--num-workers",
            help="Number of worker processes that read images. Default: number of cores, at most 8. 0 reads in the "
            "main process.",
        ),
    ] = None
    device: Device = "auto"
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of all random choices: draws, splits, training, and random weights.")
    ] = 0
    debug: Debug = False

    def run_settings(self, tasks: Sequence[str], stores: Sequence[Path] | None = None) -> "RunSettings":
        """Checks that the reports can be written, and returns how to compute.

        Raises:
            OSError: if a report exists and must not be replaced, or the card cannot be read.
            ValueError: if the device is not available, or a number is out of range.
        """
        from transformers.utils import logging

        from stellar_hub.evaluation import RunSettings
        from stellar_hub.evaluation.report import check_targets
        from stellar_hub.features import Processes, choose_device

        logging.disable_progress_bar()
        check_targets(tasks, self.output, self.update_card, self.overwrite)
        if self.device != "auto":
            choose_device(self.device)
        opened: tuple[Any, ...] = ()
        if stores:
            from stellar_hub.evaluation.from_store import open_stores

            opened = open_stores(stores)
        return RunSettings(
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            cache=self.cache,
            processes=Processes.launched(self.device),
            stores=opened,
        )

    def open_backbones(self, decoder: bool = False) -> "list[Backbone]":
        """Loads all models before any work, so that a missing one is reported at once.

        Args:
            decoder: Whether the decoders of STELLAR models are needed.

        Raises:
            OSError: if weights do not exist or cannot be downloaded.
            ValueError: if a name is unknown or given twice.
        """
        from stellar_hub.features.backbones import open_backbone

        names = (self.model, *(self.compare or ()))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each model must be named once, {twice[0]} is named twice")
        return [open_backbone(name, self.seed, None if decoder else False) for name in names]


def evaluation_command(command: Callable[..., None]) -> Callable[..., None]:
    """Turns a function into a command: adds the options of `Options`, and reports errors in one line.

    The function gets an `Options` as its argument `options`, and its own options as keywords.
    """
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "options"]
    shared = inspect.signature(Options, eval_str=True).parameters

    def run(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    functools.update_wrapper(run, command)
    del run.__wrapped__  # type: ignore[attr-defined]  # typer would read the function's own signature
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}

    return reports_errors(run)


def open_splits(train: str, test: str, run: "RunSettings", allow_shared: bool) -> "Splits":
    """Opens the labelled images of --train and --test."""
    from stellar_hub.data.labelled import open_labelled
    from stellar_hub.evaluation import prepare_splits

    return prepare_splits(open_labelled(train), open_labelled(test), run, allow_shared)


def open_masks(train: str, test: str, run: "RunSettings", allow_shared: bool) -> "SegmentationSplits":
    """Opens two folders of images with masks; the classes of the first one name those of the second."""
    from stellar_hub.data.labelled import read_segmentation_folder
    from stellar_hub.evaluation import prepare_segmentation

    learned = read_segmentation_folder(train)
    return prepare_segmentation(learned, read_segmentation_folder(test, learned.classes), run, allow_shared)


def notes_on_stores(run: "RunSettings", backbones: "Sequence[Backbone]") -> list[str]:
    """Returns a note on each store, and raises ValueError for a store that belongs to none of the models."""
    if not run.stores:
        return []
    from stellar_hub.evaluation.from_store import check_stores

    return check_stores(run.stores, backbones)


def show_and_write(report: "Report", options: Options, run: "RunSettings", with_heading: bool = False) -> None:
    """Prints the table of a report and writes the files, in the main process."""
    from stellar_hub.evaluation.report import terminal_table, write_report

    if not run.processes.is_main:
        return
    typer.echo((f"\n{report.task}\n\n" if with_heading else "") + terminal_table(report))
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    for path in write_report(report, options.output, options.update_card):
        typer.echo(f"written: {path}", err=True)
