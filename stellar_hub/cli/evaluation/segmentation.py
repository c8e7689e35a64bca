"""`stellar-hub eval segmentation`: masks from frozen features, with and without training."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.evaluation.options import (
    AllowShared,
    BatchSize,
    Cache,
    Card,
    Compare,
    Options,
    ReportFolder,
    Seed,
    Workers,
    finish,
    open_masks,
)
from stellar_hub.cli.options import Debug, Device, ModelName, Overwrite

Masked = "images/NAME.jpg, masks/NAME.png with a class's number per pixel (255: unlabelled), perhaps classes.txt"


@reports_errors
def segmentation(
    train: Annotated[str, typer.Option("--train", help=f"Folder to learn from: {Masked}.")],
    test: Annotated[str, typer.Option("--test", help="Folder to measure on, likewise.")],
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    features: Annotated[
        list[str] | None, typer.Option("--features", help="patches (the usual), Z or L; repeat it for more.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the images.")] = 20,
    background: Annotated[
        int, typer.Option("--background", help="The class that is no object for segments; -1: all classes are.")
    ] = 0,
    allow_shared: AllowShared = False,
    output: ReportFolder = None,
    update_card: Card = None,
    overwrite: Overwrite = False,
    cache: Cache = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    device: Device = "auto",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Segment by a linear probe of frozen features, and by tokens as segments without training.

    Example: stellar-hub eval segmentation --train scenes/train --test scenes/test --features patches --features L
    """
    from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol, evaluate_segmentation

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    protocol = SegmentationProtocol(
        tuple(features or ("patches",)), num_epochs=epochs, background=None if background < 0 else background, seed=seed
    )
    run = options.run_settings(["segmentation"])
    backbones = options.backbones()
    splits = open_masks(train, test, run, allow_shared)
    assert splits is not None
    finish(evaluate_segmentation(backbones, splits, protocol, run), options, run)
