"""`stellar-hub eval reconstruction` and `stellar-hub eval diagnostics`: protocols on images without labels."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import wrong_usage
from stellar_hub.cli.evaluation.options import Options, evaluation_command, open_images, show_and_write
from stellar_hub.cli.models import check_num_tokens
from stellar_hub.cli.options import at_least

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Images: a folder, a list of paths (.txt), tar files, tables, or hub:OWNER/NAME.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="METRIC",
        help="Metric: psnr, ssim, lpips or rfid. Default: psnr and ssim. Repeat the option for several.",
    ),
]
LpipsNet = Annotated[
    str, typer.Option("--lpips-net", metavar="NETWORK", help="Network of LPIPS: alex, vgg or squeeze.")
]
Networks = Annotated[
    Path | None,
    typer.Option(
        "--networks",
        metavar="FOLDER",
        help="Folder whose checkpoints/ holds the weights of LPIPS and rFID. Default: torch.hub's folder; missing "
        "weights are downloaded to it.",
    ),
]


@evaluation_command
def reconstruction(
    options: Options,
    data: Data,
    metric: Metrics = None,
    lpips_net: LpipsNet = "alex",
    networks: Networks = None,
    max_images: Annotated[
        int,
        typer.Option(
            "--max-images",
            metavar="N",
            callback=at_least(0),
            help="Largest number of images to use, drawn at random; 0 for all.",
        ),
    ] = 0,
    num_tokens: Annotated[
        list[int] | None,
        typer.Option(
            "--num-tokens",
            metavar="K",
            callback=at_least(1),
            help="Decode from the first K tokens alone, for models that were trained with nested_dropout. Repeat the "
            "option for a table over K. Default: all tokens.",
        ),
    ] = None,
) -> None:
    """Measure reconstruction from tokens.

    Each image is compared with what a model decodes from its tokens: PSNR, SSIM, LPIPS, rFID.

    Example: stellar-hub eval reconstruction --data photos --metric psnr --metric ssim --metric lpips
    """
    from stellar_hub.evaluation import ReconstructionProtocol, evaluate_reconstruction, load_metric_networks
    from stellar_hub.modeling import StellarModel

    with wrong_usage():
        protocol = ReconstructionProtocol(
            tuple(metric or ("psnr", "ssim")), lpips_net, max_images, options.seed, tuple(num_tokens or ())
        )
    run = options.run_settings(["reconstruction"], decoding=True)
    images = open_images(data, options.root)
    loaded = load_metric_networks(protocol.metrics, lpips_net, networks)  # before any work: weights may be missing
    backbones = options.open_backbones(decoder=True)
    for backbone in backbones:
        if isinstance(network := backbone.network, StellarModel):
            for number in protocol.num_tokens:
                check_num_tokens(number, network)
    report = evaluate_reconstruction(backbones, images, data, protocol, loaded, run)
    show_and_write(report, options, run)


@evaluation_command
def diagnostics(
    options: Options,
    data: Data,
    max_images: Annotated[
        int,
        typer.Option(
            "--max-images", metavar="N", callback=at_least(2), help="Largest number of images to use, drawn at random."
        ),
    ] = 1000,
    prototypes: Annotated[
        Path | None,
        typer.Option(
            "--prototypes",
            metavar="CHECKPOINT",
            help="Training checkpoint, such as RUN/checkpoints/step-000100. Measures how evenly the tokens of --model "
            "use its prototypes.",
        ),
    ] = None,
) -> None:
    """Measure features without labels.

    The table has rank and spread of features, stability of tokens and the shape of their maps. The JSON in --output
    has the source, the range and the good direction of each number.

    Example: stellar-hub eval diagnostics --data photos --compare stellar-tiny:random
    """
    from stellar_hub.evaluation import DiagnosticsProtocol, evaluate_diagnostics
    from stellar_hub.evaluation.protocols.diagnostics import load_prototypes

    checkpoint = None if prototypes is None else str(prototypes)
    with wrong_usage():
        protocol = DiagnosticsProtocol(max_images, prototypes=checkpoint, seed=options.seed)
    run = options.run_settings(["diagnostics"])
    if prototypes is not None:
        load_prototypes(prototypes)
    images = open_images(data, options.root)
    show_and_write(evaluate_diagnostics(options.open_backbones(), images, data, protocol, run), options, run)
