"""`stellar-hub eval all`: every protocol, one scorecard."""

from typing import Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, wrong_usage
from stellar_hub.cli.evaluation.options import (
    AllowShared,
    Options,
    Test,
    Train,
    evaluation_command,
    open_masks,
    open_train_and_test,
    show_and_write,
)
from stellar_hub.cli.evaluation.unlabelled import LpipsNet, Metrics, Networks

TASKS = ("knn", "linear", "segmentation", "reconstruction", "diagnostics", "scorecard")


@evaluation_command
def all_protocols(
    options: Options,
    train: Train,
    test: Test,
    segmentation_train: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder with images/ and masks/ to learn segmentation from. Default: skip it."
        ),
    ] = None,
    segmentation_test: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder with images/ and masks/ to measure segmentation on.")
    ] = None,
    metric: Metrics = None,
    lpips_net: LpipsNet = "alex",
    networks: Networks = None,
    allow_shared: AllowShared = False,
) -> None:
    """Run every protocol, for one scorecard.

    With --output, scorecard.md and scorecard.json hold all results. kNN and linear classification use the labelled
    images, segmentation the images with masks, reconstruction (by models that decode) and diagnostics the test images.

    Example: stellar-hub eval all --train photos/train --test photos/test --compare pixels --output scorecard
    """
    from stellar_hub.evaluation import (
        DiagnosticsProtocol,
        LinearProtocol,
        ReconstructionProtocol,
        ScorecardProtocol,
        SegmentationProtocol,
        evaluate_all,
        prepare_splits,
        write_scorecard,
    )

    if (segmentation_train is None) != (segmentation_test is None):
        raise WrongUsage("segmentation needs both --segmentation-train and --segmentation-test, got one of them")
    with wrong_usage():
        protocol = ScorecardProtocol(
            linear=LinearProtocol(seed=options.seed),
            segmentation=SegmentationProtocol(seed=options.seed),
            reconstruction=ReconstructionProtocol(tuple(metric or ("psnr", "ssim")), lpips_net, seed=options.seed),
            diagnostics=DiagnosticsProtocol(seed=options.seed),
        )
    run = options.run_settings(TASKS)
    learned, measured = open_train_and_test(train, test, options.root)
    with wrong_usage():
        protocol.knn.resolved(len(learned))
    backbones = options.open_backbones(decoder=True)
    splits = prepare_splits(learned, measured, run, allow_shared)
    masks = None
    if segmentation_train is not None and segmentation_test is not None:
        masks = open_masks(segmentation_train, segmentation_test, options.root, run, allow_shared)
    reports = []
    for report in evaluate_all(backbones, splits, masks, protocol, run, networks):
        show_and_write(report, options, run, with_heading=True)
        reports.append(report)
    if options.output is not None and run.processes.is_main:
        for path in write_scorecard(reports, options.output):
            typer.echo(f"written: {path}", err=True)
