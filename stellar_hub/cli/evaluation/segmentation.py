"""`stellar-hub eval segmentation`: masks from frozen dense features, with and without training."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import wrong_usage
from stellar_hub.cli.evaluation.options import AllowShared, Options, evaluation_command, open_masks, show_and_write
from stellar_hub.cli.options import at_least

MASKED = (
    "images/NAME.jpg, masks/NAME.png with the number of a class per pixel (255: unlabelled, or the second class if "
    "there are no numbers but 0 and 255) and, to name the classes, classes.txt"
)


@evaluation_command
def segmentation(
    options: Options,
    train: Annotated[str, typer.Option("--train", metavar="SOURCE", help=f"Folder to learn from: {MASKED}.")],
    test: Annotated[
        str, typer.Option("--test", metavar="SOURCE", help="Folder to measure on, in the form of --train.")
    ],
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="FEATURE",
            help="Dense feature to probe: patches, Z or L. Default: patches. Repeat the option for several.",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="N", callback=at_least(1), help="Number of passes over the images.")
    ] = 20,
    background: Annotated[
        int,
        typer.Option(
            "--background",
            metavar="N",
            help="Class number of the background, which is not counted as an object; -1 for none.",
        ),
    ] = 0,
    allow_shared: AllowShared = False,
) -> None:
    """Segment images by a linear probe and by tokens.

    The probe is trained on frozen features. The regions of tokens are compared with objects without any training.

    Example: stellar-hub eval segmentation --train scenes/train --test scenes/test --features patches --features L
    """
    from stellar_hub.evaluation import SegmentationProtocol, evaluate_segmentation
    from stellar_hub.evaluation.protocols.segmentation import check_background

    with wrong_usage():
        protocol = SegmentationProtocol(
            tuple(features or ("patches",)),
            num_epochs=epochs,
            background=None if background < 0 else background,
            seed=options.seed,
        )
    run = options.run_settings(["segmentation"])
    splits = open_masks(train, test, options.root, run, allow_shared)
    with wrong_usage():
        check_background(protocol, splits.train.classes)
    report = evaluate_segmentation(options.open_backbones(), splits, protocol, run)
    show_and_write(report, options, run)
