"""`stellar-hub eval reconstruction`: how alike images are to what is decoded from their tokens."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.evaluation.diagnostics import Data
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

Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="psnr and ssim (the usual), lpips, rfid; repeat it.")
]
LpipsNet = Annotated[str, typer.Option("--lpips-net", help="alex, vgg or squeeze.")]
Networks = Annotated[
    Path | None,
    typer.Option("--networks", help="Folder with weights for LPIPS and rFID in its checkpoints/, as torch.hub has it."),
]


@reports_errors
def reconstruction(
    data: Data,
    model: ModelName = "stellar-tiny",
    compare: Compare = None,
    metric: Metrics = None,
    lpips_net: LpipsNet = "alex",
    networks: Networks = None,
    max_images: Annotated[int, typer.Option("--max-images", help="Draw at most so many; 0 takes all.")] = 0,
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
    """Measure reconstruction: PSNR, SSIM, LPIPS, rFID. Weights that metrics need are looked for before any work.

    Example: stellar-hub eval reconstruction --data photos --metric psnr --metric ssim --metric lpips
    """
    from stellar_hub.data.sources import open_source
    from stellar_hub.evaluation.protocols.reconstruction import (
        ReconstructionProtocol,
        evaluate_reconstruction,
        load_networks,
    )

    shared = (output, update_card, overwrite, cache, batch_size, workers, device, seed)
    options = Options(model, tuple(compare or ()), *shared)
    protocol = ReconstructionProtocol(tuple(metric or ("psnr", "ssim")), lpips_net, max_images, seed)
    run = options.run_settings(["reconstruction"])
    loaded = load_networks(protocol, networks)
    backbones = options.backbones(decoder=True)
    report = evaluate_reconstruction(backbones, open_source(data), data, protocol, loaded, run)
    finish(report, options, run)
