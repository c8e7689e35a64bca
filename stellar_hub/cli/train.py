"""`stellar-hub train`: pretrain, or train further on one's own images."""

from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Folder of images, list (.txt), tar files (shard-{000..127}.tar), tables (.parquet) or hub:OWNER/NAME; "
        "several are put together.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="A recipe's name (finetune, b16, l16, h16, scratch-stage1, ...) or a YAML file."),
]
Init = Annotated[
    str | None,
    typer.Option("--init", help="What to begin from: a model's name or folder, timm:NAME, or random."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: --set optimization.learning_rate=1e-4")
]
RunFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the run: checkpoints, journal, images, model.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", help='"auto" goes on from the newest checkpoint in --output; or the path of one.'),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Stay on the CPU where there is a GPU.")]


@reports_errors
def train(
    output: RunFolder,
    data: Data = None,
    recipe: RecipeName = None,
    init: Init = None,
    settings: Settings = None,
    resume: Resume = None,
    cpu: Cpu = False,
    debug: Debug = False,
) -> None:
    """Train by a recipe; over several GPUs with `accelerate launch -m stellar_hub train` and the same options.

    SIGTERM and Ctrl-C save a checkpoint and stop; --resume auto goes on, to the same weights.

    Example: stellar-hub train --data photos --recipe finetune --init stellar-tiny --output runs/mine
    """
    from stellar_hub.training.train import train_by_options

    model = train_by_options(output, data or [], recipe, init, settings or [], resume, cpu)
    if model is not None:
        typer.echo(f"{output}: the model is in {model}")
