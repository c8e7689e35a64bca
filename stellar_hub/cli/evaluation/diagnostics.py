"""`stellar-hub eval diagnostics`: what features tell without labels."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.evaluation.options import (
    BatchSize,
    Cache,
    Card,
    Compare,
    Options,
    ReportFolder,
    Seed,
    Workers,
    finish,
)
from stellar_hub.cli.options import Debug, Device, ModelName, Overwrite

Data = Annotated[
    str, typer.Option("--data", help="Images: a folder, a list (.txt), tar files, tables or hub:OWNER/NAME.")
]


@reports_errors
def diagnostics(
    data: Data,
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    max_images: Annotated[int, typer.Option("--max-images", help="Draw at most so many.")] = 1000,
    prototypes: Annotated[
        Path | None, typer.Option("--prototypes", help="Checkpoint of pretraining, to see how its prototypes are used.")
    ] = None,
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
    """Measure features without labels: rank, spread, stability of tokens, shape of their maps.

    The JSON of --output says of each number where it comes from, its range and what is good.

    Example: stellar-hub eval diagnostics --data photos --compare stellar-tiny:random
    """
    from stellar_hub.data.sources import open_source
    from stellar_hub.evaluation.protocols.diagnostics import DiagnosticsProtocol, evaluate_diagnostics

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    protocol = DiagnosticsProtocol(max_images, prototypes=None if prototypes is None else str(prototypes), seed=seed)
    run = options.run_settings(["diagnostics"])
    backbones = options.backbones()
    report = evaluate_diagnostics(backbones, open_source(data), data, protocol, run)
    finish(report, options, run)
