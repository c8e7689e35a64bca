"""The options that all evaluation commands share, and the steps that all of them take."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stellar_hub.cli.errors import reports_errors, wrong_usage
from stellar_hub.cli.messages import announce_loading, warn
from stellar_hub.cli.models import check_image_size
from stellar_hub.cli.options import Debug, Device, ImageSize, ModelName, Overwrite, at_least, parse_image_size

if TYPE_CHECKING:
    from stellar_hub.data.labelled import LabelledImages
    from stellar_hub.data.sources import StoredSource
    from stellar_hub.evaluation import Report, RunSettings, SegmentationSplits
    from stellar_hub.features.backbones import Backbone

LABELLED = (
    "a folder of class folders, a table of paths and labels (.csv, .csv:SPLIT), tables of images (.parquet), "
    "or hub:OWNER/NAME:SPLIT"
)
Train = Annotated[str, typer.Option("--train", metavar="SOURCE", help=f"Labelled images to learn from: {LABELLED}.")]
Test = Annotated[
    str,
    typer.Option("--test", metavar="SOURCE", help="Labelled images to measure on, in any format that --train accepts."),
]
AllowShared = Annotated[
    bool, typer.Option("--allow-shared", help="Accept test images that are in train too, instead of an error.")
]
Stores = Annotated[
    list[Path] | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
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
            help="Another model for the table: a STELLAR, timm or transformers model, or `pixels`; `reconstruction` "
            "takes STELLAR models alone. NAME:random has random weights, NAME:PATH weights from a file or folder. "
            "Repeat the option for several models.",
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder to write figures and a JSON with the whole protocol to."
        ),
    ] = None
    update_card: Annotated[
        Path | None,
        typer.Option("--update-card", metavar="FILE", help="Model card (README.md) to write the table into."),
    ] = None
    overwrite: Overwrite = False
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FOLDER", help="Folder to keep features in. An interrupted command continues from them."
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", callback=at_least(1), help="Number of images per forward pass.")
    ] = 32
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--num-workers",
            metavar="N",
            callback=at_least(0),
            help="Number of worker processes that read images. Default: number of cores, at most 8. 0 reads in the "
            "main process.",
        ),
    ] = None
    device: Device = "auto"
    image_size: ImageSize = None
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="Folder below which tables may name files, and links in folders may end. Default: tables give bytes "
            "only, and links must end in their own folder.",
        ),
    ] = None
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", help="Seed of all random choices: draws, splits, training, and random weights."
        ),
    ] = 0
    debug: Debug = False

    def run_settings(
        self, tasks: Sequence[str], stores: Sequence[Path] | None = None, decoding: bool = False
    ) -> "RunSettings":
        """Checks the names of the models and that the reports can be written, and returns how to compute.

        Args:
            tasks: Names of the reports that will be written.
            stores: Folders of feature stores.
            decoding: Whether only models that decode are allowed.

        Raises:
            OSError: if a report exists and must not be replaced, or the card cannot be read.
            ValueError: if the device is not available, a number is out of range, or `check_models` raises it.
        """
        from transformers.utils import logging

        from stellar_hub.evaluation import RunSettings
        from stellar_hub.evaluation.report import check_targets
        from stellar_hub.features import Processes, choose_device

        logging.disable_progress_bar()
        check_targets(tasks, self.output, self.update_card, self.overwrite)
        with wrong_usage():
            self.check_models(decoding)
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

    def check_models(self, decoding: bool = False) -> None:
        """Checks the names of the models, before anything is loaded.

        Args:
            decoding: Whether only models that decode are allowed.

        Raises:
            ValueError: if a name is given twice, is not a name of a model, or names a model that cannot decode.
        """
        from stellar_hub.features.backbones.open_backbone import check_spec, split_spec

        names = self._model_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each model must be named once, {twice[0]} is named twice")
        for name in names:
            kind = check_spec(name)
            if kind == "stellar":
                architecture, weights = split_spec(name)
                given = architecture if weights in (None, "random") else weights
                check_image_size(given.removeprefix("timm:"), parse_image_size(self.image_size))
            if decoding and kind not in ("stellar", None):
                raise ValueError(
                    f"{name} cannot decode: reconstruction takes STELLAR models with a decoder, leave it out"
                )

    def open_backbones(self, decoder: bool = False) -> "list[Backbone]":
        """Loads all models before any work, so that a missing one is reported at once.

        Args:
            decoder: Whether the decoders of STELLAR models are needed.

        Raises:
            OSError: if weights do not exist or cannot be downloaded.
            ValueError: if weights do not fit.
        """
        from stellar_hub.features.backbones import open_backbone

        size = None if self.image_size is None else parse_image_size(self.image_size)
        backbones = []
        for name in self._model_names:
            announce_loading(name)
            backbones.append(open_backbone(name, self.seed, None if decoder else False, size))
        return backbones

    @property
    def _model_names(self) -> tuple[str, ...]:
        return (self.model, *(self.compare or ()))


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


def open_images(name: str, root: Path | None) -> "StoredSource":
    """Opens the images of --data, and says what was passed over and what cannot be read to its end."""
    from stellar_hub.data.sources import open_source

    source = open_source(name, root)
    _say_what_is_missing(name, source)
    return source


def open_train_and_test(train: str, test: str, root: Path | None) -> "tuple[LabelledImages, LabelledImages]":
    """Lists the labelled images of --train and --test; their files are not read yet."""
    return open_labelled_images(train, root), open_labelled_images(test, root)


def open_labelled_images(name: str, root: Path | None) -> "LabelledImages":
    """Lists labelled images, and says what was passed over; their files are not read yet."""
    from stellar_hub.data.labelled import open_labelled

    labelled = open_labelled(name, root)
    _say_what_is_missing(labelled.name, labelled, labelled.images)
    return labelled


def open_masks(
    train: str, test: str, root: Path | None, run: "RunSettings", allow_shared: bool
) -> "SegmentationSplits":
    """Opens two folders of images with masks; the classes of the first one name those of the second."""
    from stellar_hub.data.labelled import read_segmentation_folder
    from stellar_hub.evaluation import prepare_segmentation

    learned = read_segmentation_folder(train, root=root)
    measured = read_segmentation_folder(test, learned.classes, root)
    for images in (learned, measured):
        _say_what_is_missing(images.name, images)
    return prepare_segmentation(learned, measured, run, allow_shared)


def _say_what_is_missing(name: str, *opened: object) -> None:
    """Prints what was passed over, each sentence once, and the parts that cannot be read to their end."""
    for note in dict.fromkeys(note for each in opened for note in getattr(each, "notes", ())):
        warn(f"{name}: {note}")
    for entry in (entry for each in opened for entry in getattr(each, "damaged", ())):
        warn(f"{name}: images may be missing, because a file is damaged: {entry}")


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
        warn(f"note: {note}")
    for path in write_report(report, options.output, options.update_card):
        warn(f"written: {path}")
