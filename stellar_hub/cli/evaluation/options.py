"""Options that all protocols share, and what they amount to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stellar_hub.evaluation.computing import RunSettings
    from stellar_hub.evaluation.report import Report
    from stellar_hub.evaluation.splits import SegmentationSplits, Splits
    from stellar_hub.features.backbones import Backbone
    from stellar_hub.store.feature_store import FeatureStore

LABELLED = "folder of class folders, split file (.csv, .csv:SPLIT), tables (.parquet) or hub:OWNER/NAME:SPLIT"
Train = Annotated[str, typer.Option("--train", help=f"Labelled images to learn from: {LABELLED}.")]
Test = Annotated[str, typer.Option("--test", help="Labelled images to measure on, likewise.")]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        metavar="NAME[:random|:PATH]",
        help="Another model for the same table: STELLAR's, timm's, transformers' or pixels; repeat it for more.",
    ),
]
ReportFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the JSON with the whole protocol, and images.")
]
Card = Annotated[Path | None, typer.Option("--update-card", help="Model card (README.md) to put the table into.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder to keep features in: an interrupted run goes on from there.")
]
Stores = Annotated[
    list[Path] | None,
    typer.Option(
        "--store", help="What extract wrote for these images, to take a STELLAR model's features from; repeat it."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images of one forward.")]
Workers = Annotated[int, typer.Option("--workers", help="Processes that read images.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random, weights included.")]
AllowShared = Annotated[bool, typer.Option("--allow-shared", help="Accept test images that are in train too.")]
Poolings = Annotated[
    list[str] | None,
    typer.Option("--pooling", help="pooled, cls, patches_mean, S or pixels; all a model has if none is named."),
]


@dataclass(frozen=True)
class Options:
    """The options that all protocols share."""

    model: str
    compare: tuple[str, ...]
    output: Path | None
    update_card: Path | None
    overwrite: bool
    cache: Path | None
    batch_size: int
    workers: int
    device: str
    seed: int

    def run_settings(self, tasks: Sequence[str], stores: Sequence[Path] | None = None) -> RunSettings:
        """How to compute, once it is clear that the results can be written.

        Raises:
            OSError: if a report exists and may not be replaced, or the card cannot be read.
            ValueError: if the device is not available, or a number is out of range.
        """
        from transformers.utils import logging

        from stellar_hub.evaluation.computing import RunSettings
        from stellar_hub.evaluation.report.output import check_targets
        from stellar_hub.features import choose_device
        from stellar_hub.features.processes import Processes

        logging.disable_progress_bar()
        check_targets(tasks, self.output, self.update_card, self.overwrite)
        if self.device != "auto":
            choose_device(self.device)
        opened: tuple[FeatureStore, ...] = ()
        if stores:
            from stellar_hub.evaluation.from_store import open_stores

            opened = open_stores(stores)
        processes = Processes.launched(self.device)
        return RunSettings(self.batch_size, self.workers, self.cache, processes=processes, stores=opened)

    def backbones(self, decoder: bool = False) -> list[Backbone]:
        """The model and those it is compared with, all loaded: what is missing is said before any work.

        Raises:
            OSError: if weights do not exist or cannot be fetched.
            ValueError: if a name is unknown, or given twice.
        """
        from stellar_hub.features.backbones import open_backbone

        names = (self.model, *self.compare)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is given twice; name each model once")
        return [open_backbone(name, self.seed, None if decoder else False) for name in names]


def open_splits(train: str, test: str, run: RunSettings, allow_shared: bool) -> Splits:
    """Train and test as they are written on the command line."""
    from stellar_hub.data.labelled import open_labelled
    from stellar_hub.evaluation.splits import prepare_splits

    return prepare_splits(open_labelled(train), open_labelled(test), run, allow_shared)


def open_masks(train: str | None, test: str | None, run: RunSettings, allow_shared: bool) -> SegmentationSplits | None:
    """Images with masks as they are written on the command line; None where there are none.

    Raises:
        ValueError: if one of the two is missing.
    """
    from stellar_hub.data.labelled.segmentation_folders import read_segmentation_folder
    from stellar_hub.evaluation.splits import prepare_segmentation

    if train is None and test is None:
        return None
    if train is None or test is None:
        raise ValueError("segmentation needs images with masks to learn from and to measure on: give both folders")
    learned = read_segmentation_folder(train)
    return prepare_segmentation(learned, read_segmentation_folder(test, learned.classes), run, allow_shared)


def store_notes(run: RunSettings, backbones: Sequence[Backbone]) -> list[str]:
    """What stores are used for; refuses those that are of none of the models."""
    if not run.stores:
        return []
    from stellar_hub.evaluation.from_store import check_stores

    return check_stores(run.stores, backbones)


def finish(report: Report, options: Options, run: RunSettings, heading: bool = False) -> None:
    """Show the table and write what was asked for, in one process."""
    from stellar_hub.evaluation.report.output import terminal_table, write_report

    if not run.processes.is_main:
        return
    typer.echo((f"\n{report.task}\n\n" if heading else "") + terminal_table(report))
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    for path in write_report(report, options.output, options.update_card):
        typer.echo(f"written: {path}", err=True)
