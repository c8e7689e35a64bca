"""`stellar-hub eval all`: every protocol, one scorecard."""

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
    Test,
    Train,
    Workers,
    finish,
    open_masks,
    open_splits,
)
from stellar_hub.cli.evaluation.reconstruction import LpipsNet, Metrics, Networks
from stellar_hub.cli.options import Debug, Device, ModelName, Overwrite

TASKS = ("knn", "linear", "segmentation", "reconstruction", "diagnostics", "scorecard")
MaskedFolder = Annotated[str | None, typer.Option(help="Folder with images/ and masks/; segmentation needs both.")]


@reports_errors
def all_protocols(
    train: Train,
    test: Test,
    segmentation_train: MaskedFolder = None,
    segmentation_test: MaskedFolder = None,
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    metric: Metrics = None,
    lpips_net: LpipsNet = "alex",
    networks: Networks = None,
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
    """Follow every protocol; with --output, scorecard.md and scorecard.json hold all of it.

    kNN and linear on the labelled images, segmentation where masks are given, reconstruction by models that decode
    and diagnostics on the test images.

    Example: stellar-hub eval all --train photos/train --test photos/test --compare pixels --output scorecard
    """
    from stellar_hub.evaluation.protocols.diagnostics import DiagnosticsProtocol
    from stellar_hub.evaluation.protocols.linear import LinearProtocol
    from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol
    from stellar_hub.evaluation.protocols.scorecard import ScorecardProtocol, evaluate_all
    from stellar_hub.evaluation.protocols.segmentation import SegmentationProtocol
    from stellar_hub.evaluation.report.output import write_scorecard

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    protocol = ScorecardProtocol(
        linear=LinearProtocol(seed=seed),
        segmentation=SegmentationProtocol(seed=seed),
        reconstruction=ReconstructionProtocol(tuple(metric or ("psnr", "ssim")), lpips_net, seed=seed),
        diagnostics=DiagnosticsProtocol(seed=seed),
    )
    run = options.run_settings(TASKS)
    backbones = options.backbones(decoder=True)
    splits = open_splits(train, test, run, allow_shared)
    masks = open_masks(segmentation_train, segmentation_test, run, allow_shared)
    reports = []
    for report in evaluate_all(backbones, splits, masks, protocol, run, networks):
        finish(report, options, run, heading=True)
        reports.append(report)
    if output is not None and run.processes.is_main:
        for path in write_scorecard(reports, output):
            typer.echo(f"written: {path}", err=True)
