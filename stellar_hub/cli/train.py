"""`stellar-hub train`: pretrains a model, or trains one further on your own images."""

import os
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug

if TYPE_CHECKING:
    from stellar_hub.training.recipes.sections import Recipe

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Images: a folder, a list (.txt), tar files (shard-{000..127}.tar), tables (.parquet), or "
        "hub:OWNER/NAME for a dataset of the Hub. Repeat the option to use several sources.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="Name of a recipe (finetune, b16, l16, h16, scratch-stage1, ...), or a YAML file."),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init", help="Weights to start with: name or folder of a model, timm:NAME for a ViT of timm, or random."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the recipe, such as optimization.learning_rate=1e-4. Repeat the option to change more.",
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the run, for checkpoints, journal, previews and the model.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", help='Checkpoint to resume, or "auto" for the newest one in --output.'),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")]


@reports_errors
def train(
    output: OutputFolder,
    data: Data = None,
    recipe: RecipeName = None,
    init: Init = None,
    settings: Settings = None,
    resume: Resume = None,
    cpu: Cpu = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe.

    For several GPUs use `accelerate launch -m stellar_hub train` with the same options. SIGTERM and Ctrl-C save a
    checkpoint and stop the run; --resume auto then continues it and reaches the same weights.

    Example: stellar-hub train --data photos --recipe finetune --init stellar-tiny --output runs/mine
    """
    from transformers.utils import logging

    from stellar_hub.training.train import Stopped
    from stellar_hub.training.train import train as train_by_recipe

    is_main = int(os.environ.get("RANK", "0")) == 0
    if not is_main:  # the main process speaks for all
        getLogger("stellar_hub").setLevel("ERROR")
    chosen, reference_batch_size = choose_recipe(output, recipe, settings or [], resume)
    if data:
        chosen, note = with_sources(chosen, data, settings or [])
        if note and is_main:
            typer.echo(note, err=True)
    if init is not None:
        chosen = chosen.with_values("model", init=init)
    if not chosen.data.sources:
        raise ValueError("there are no images to train on: pass --data with a folder, a list, tar files or tables")
    logging.disable_progress_bar()
    try:
        model = train_by_recipe(chosen, output, resume=resume, cpu=cpu, reference_batch_size=reference_batch_size)
    except Stopped as stopped:
        if is_main:
            typer.echo(str(stopped), err=True)
        raise typer.Exit(128 + stopped.signal_number) from None
    if is_main:
        typer.echo(f"{output}: the model is in {model}")


def choose_recipe(
    output: Path, name: str | None, settings: Sequence[str], resume: str | None
) -> tuple["Recipe", int | None]:
    """Returns the recipe and the batch size that it was made for, or None; a resumed run has its own recipe.

    Raises:
        FileNotFoundError: if the recipe, run or checkpoint does not exist.
        ValueError: if options do not fit each other, or the recipe is wrong.
    """
    from stellar_hub.training.checkpoints.checkpoints import read_state
    from stellar_hub.training.checkpoints.run_folder import recipe_of_run
    from stellar_hub.training.recipes.files import load_recipe

    if name is not None:
        return load_recipe(name, settings), load_recipe(name).optimization.batch_size
    if resume is None:
        raise ValueError("a new run needs a recipe: pass --recipe, such as --recipe finetune")
    if settings:
        raise ValueError("--set changes a recipe: pass --recipe, too")
    if resume == "auto":
        return recipe_of_run(output), None
    read_state(Path(resume))
    return recipe_of_run(Path(resume).absolute().parents[1]), None


def with_sources(recipe: "Recipe", data: Sequence[str], settings: Sequence[str]) -> tuple["Recipe", str | None]:
    """Returns the recipe with sources of images, and a note if its `data.repeats` are for another number of them.

    Raises:
        ValueError: if the user sets `data.repeats` for another number of sources.
    """
    repeats, note = recipe.data.repeats, None
    chosen_repeats = any("repeats" in setting.partition("=")[0] for setting in settings)
    if len(repeats) not in (0, len(data)) and not chosen_repeats:
        note = f"note: data.repeats has {len(repeats)} numbers, but there are {len(data)} sources: each is used once"
        repeats = ()
    return recipe.with_values("data", sources=tuple(data), repeats=repeats), note
