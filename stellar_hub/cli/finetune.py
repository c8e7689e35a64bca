"""`stellar-hub finetune`: trains a classifier on labelled images."""

import os
from enum import StrEnum
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stellar_hub.cli.errors import reports_errors, wrong_usage
from stellar_hub.cli.evaluation.options import LABELLED, open_labelled_images
from stellar_hub.cli.messages import announce_loading, say, warn
from stellar_hub.cli.models import check_name
from stellar_hub.cli.options import Debug, ModelName, at_least

if TYPE_CHECKING:
    from stellar_hub.training.finetuning import FinetuneReport


class Mode(StrEnum):
    """What is trained: the choices of `--mode`."""

    full = "full"
    frozen = "frozen"
    lora = "lora"


class Pooling(StrEnum):
    """What the head reads: the choices of `--pooling`."""

    mean = "mean"
    cls = "cls"
    both = "both"


class Keep(StrEnum):
    """Which weights the saved model has: the choices of `--keep`."""

    best = "best"
    last = "last"


class Precision(StrEnum):
    """Precision of the computation: the choices of `--precision`."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def number(meaning: str, metavar: str = "NUMBER") -> typer.models.OptionInfo:
    """Returns an option that takes a number."""
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=meaning)
    return option


@reports_errors
def finetune(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help=f"Labelled images to learn from: {LABELLED}.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the run, for checkpoints, journal, report and the model. It is made.",
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            metavar="SOURCE",
            help="Labelled images to measure on, in any format that TRAIN accepts. Default: a part of TRAIN is held "
            "out; see --holdout.",
        ),
    ] = None,
    model: ModelName = "stellar-tiny",
    mode: Annotated[
        Mode,
        typer.Option(
            help="What is trained. full: the encoder and the head. frozen: the head alone. lora: the head, and "
            "low-rank updates of the attention, which are merged into the weights of the saved model."
        ),
    ] = Mode.full,
    epochs: Annotated[
        int, typer.Option(metavar="N", callback=at_least(1), help="Number of passes over the training images.")
    ] = 20,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", callback=at_least(1), help="Number of images per step, over all processes together."),
    ] = 64,
    learning_rate: Annotated[
        float | None,
        number("Highest learning rate. Default: 1e-4 for full, 1e-2 for frozen, 1e-3 for lora.", "RATE"),
    ] = None,
    weight_decay: Annotated[float, number("Weight decay.")] = 0.05,
    layer_decay: Annotated[
        float | None,
        number("Factor of the learning rate from each block to the block below, for --mode full. Default: none."),
    ] = None,
    label_smoothing: Annotated[
        float, number("Share of each label that is spread over all classes, from 0 to below 1.")
    ] = 0.0,
    pooling: Annotated[
        Pooling,
        typer.Option(
            help="What the head reads. mean: the mean of the sparse tokens. cls: the cls token. both: the two side by "
            "side."
        ),
    ] = Pooling.mean,
    dropout: Annotated[
        float, number("Probability with which the head drops a number that it reads, from 0 to below 1.")
    ] = 0.0,
    lora_rank: Annotated[
        int, typer.Option(metavar="N", callback=at_least(1), help="Rank of the low-rank updates of --mode lora.")
    ] = 8,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="SIDE",
            callback=at_least(1),
            help="Side in pixels of the square images that the model sees; a multiple of its patch size. Default: that "
            "of the model's image processor.",
        ),
    ] = None,
    min_crop_area: Annotated[
        float, number("Smallest share of an image's area that a random training crop shows, above 0 to 1.")
    ] = 0.35,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror half of the training crops.")] = True,
    holdout: Annotated[
        float, number("Share of each class of TRAIN that is held out where --test is not given, between 0 and 1.")
    ] = 0.2,
    keep: Annotated[
        Keep,
        typer.Option(
            help="Which weights the saved model has. best: those of the epoch with the best accuracy. last: those of "
            "the last step."
        ),
    ] = Keep.best,
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the computation. auto: bf16 on a GPU that supports it, and else fp32."),
    ] = Precision.auto,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Compute blocks again in the backward pass, to save memory."),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of all random numbers.")] = 0,
    num_workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=at_least(0),
            help="Number of worker processes that read images. Default: number of cores, at most 8. 0 reads in the "
            "main process.",
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=at_least(1),
            help="Number of steps between two checkpoints. Default: one after each epoch.",
        ),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="LICENSE", help="License of the weights for the card: mit, apache-2.0, ...")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder below which tables may name files, and links in folders may end. Default: tables give bytes "
            "only, and links must end in their own folder.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|CHECKPOINT",
            help='"auto" goes on from the newest checkpoint in --output that is whole, or begins if there is none. A '
            "path goes on from that checkpoint. The other options must be those of the run. Default: begin, and refuse "
            "a folder that holds a run.",
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier on labelled images.

    The classifier is the encoder of a model with a new head. OUTPUT/model holds it at the end, and OUTPUT/report.md
    has its accuracy and the confusion matrix. Images that cannot be read are named and left out.

    For several GPUs use `accelerate launch -m stellar_hub finetune` with the same options, and for processes on a CPU
    `accelerate launch --multi_gpu --num_processes 2 -m stellar_hub finetune ... --cpu`. SIGTERM and Ctrl-C save a
    checkpoint and stop the run; --resume auto then continues it.

    Example: stellar-hub finetune photos/train --test photos/test --model stellar-tiny --output runs/classifier
    """
    from transformers.utils import logging

    from stellar_hub.training.finetuning import FinetuneSettings
    from stellar_hub.training.finetuning import finetune as train_classifier
    from stellar_hub.training.finetuning.models import import_peft
    from stellar_hub.training.train import Stopped

    is_main = int(os.environ.get("RANK", "0")) == 0
    if not is_main:  # the main process speaks for all
        getLogger("stellar_hub").setLevel("ERROR")
    with wrong_usage():
        settings = FinetuneSettings(
            model=model,
            mode=mode.value,
            pooling=pooling.value,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            label_smoothing=label_smoothing,
            dropout=dropout,
            lora_rank=lora_rank,
            image_size=image_size,
            min_crop_area=min_crop_area,
            flip_probability=0.5 if flip else 0.0,
            holdout=holdout,
            keep=keep.value,
            precision=precision.value,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            num_workers=num_workers,
            save_every=save_every,
            license=license,
        )
    check_name(model)
    if mode is Mode.lora:
        import_peft()
    logging.disable_progress_bar()
    learned = open_labelled_images(train, root)
    measured = None if test is None else open_labelled_images(test, root)
    announce_loading(model)
    try:
        report = train_classifier(learned, measured, settings, output, resume=resume, cpu=cpu)
    except Stopped as stopped:
        if is_main:
            warn(str(stopped))
        raise typer.Exit(128 + stopped.signal_number) from None
    if is_main:
        show(report, output)


def show(report: "FinetuneReport", output: Path) -> None:
    """Prints the numbers of a report, and where the files are."""
    numbers = report.numbers()
    width = max(len(name) for name, _ in numbers)
    for name, value in numbers:
        say(f"{name:<{width}}  {value}")
    for note in report.notes():
        warn(f"note: {note}")
    say(f"{output}: the model is in {output / 'model'}, the report is {output / 'report.md'}")
