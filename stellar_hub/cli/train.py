"""`stellar-hub train`: pretrains a model, or trains one further on your own images."""

import os
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors, wrong_usage
from stellar_hub.cli.messages import announce_loading, say, warn
from stellar_hub.cli.models import check_name
from stellar_hub.cli.options import Debug

if TYPE_CHECKING:
    from stellar_hub.training.recipes.sections import Recipe


def list_keys(wanted: bool) -> None:
    """Prints the keys of recipes, and stops."""
    if not wanted:
        return
    from stellar_hub.training.recipes.overrides import described_keys

    for key, words in described_keys().items():
        say(f"{key}: {words}")
    raise typer.Exit


Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Images to train on: a folder, a list (.txt), tar files ('shard-{000..127}.tar'), tables (.parquet), "
        "hub:OWNER/NAME for a dataset of the Hub, or stream:ADDRESS for tars or tables that are read from their "
        "beginning. Repeat the option to use several sources. Default: data.sources of the recipe.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Recipe of a new run: finetune (your own images, one GPU), b16, l16, h16, scratch-stage1, scratch-stage2 "
        "(as in the paper), stellar-tiny, a YAML file, or the folder of a run. A run that is resumed has its own.",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="MODEL",
        help="Weights to start with: name, folder or Hub repository of a model, timm:NAME for a ViT of timm, or "
        "random. Default: model.init of the recipe; finetune has none.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the recipe, such as optimization.learning_rate=1e-4, or model.config.mask_ratio=0.6. "
        "Repeat the option to change more. --list-keys prints all keys.",
    ),
]
OutputFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder of the run, for checkpoints, journal, previews and the model. It is made.",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="auto|CHECKPOINT",
        help='"auto" goes on from the newest checkpoint in --output that is whole, or begins if there is none. A path '
        "goes on from that checkpoint. Default: begin, and refuse a folder that holds a run.",
    ),
]
ListKeys = Annotated[
    bool,
    typer.Option(
        "--list-keys",
        callback=list_keys,
        is_eager=True,
        help="Print the keys that --set takes, with what each means, and stop.",
    ),
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
    list_keys: ListKeys = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe.

    For several GPUs use `accelerate launch -m stellar_hub train` with the same options, and for processes on a CPU
    `accelerate launch --multi_gpu --num_processes 2 -m stellar_hub train ... --cpu`. SIGTERM and Ctrl-C save a
    checkpoint and stop the run; --resume auto then continues it and reaches the same weights. Images that cannot be
    read are named and left out.

    Example: stellar-hub train --data photos --recipe finetune --init stellar-tiny --output runs/mine
    """
    from transformers.utils import logging

    from stellar_hub.training.checkpoints.checkpoints import Checkpoints
    from stellar_hub.training.checkpoints.run_folder import CHECKPOINTS_FOLDER, refuse_run
    from stellar_hub.training.train import Stopped
    from stellar_hub.training.train import train as train_by_recipe

    is_main = int(os.environ.get("RANK", "0")) == 0
    if not is_main:  # the main process speaks for all
        getLogger("stellar_hub").setLevel("ERROR")
    if resume is None:
        refuse_run(output, Checkpoints(output / CHECKPOINTS_FOLDER, keep=1))
    with wrong_usage():
        chosen, reference_batch_size = choose_recipe(output, recipe, settings or [], resume)
    if data:
        with wrong_usage():
            chosen, note = with_sources(chosen, data, settings or [])
        if note and is_main:
            warn(note)
    if init is not None:
        with wrong_usage():
            chosen = chosen.with_values("model", init=init)
    if chosen.model.init is None and resume is None:
        raise WrongUsage(
            "the recipe has no model to start from: pass --init with a model, such as stellar-b16, or random"
        )
    if resume is None:
        check_fit(chosen)
    if not chosen.data.sources:
        raise WrongUsage("there are no images to train on: pass --data with a folder, a list, tar files or tables")
    logging.disable_progress_bar()
    announce_loading(start_of(chosen, resume))
    try:
        model = train_by_recipe(chosen, output, resume=resume, cpu=cpu, reference_batch_size=reference_batch_size)
    except Stopped as stopped:
        if is_main:
            warn(str(stopped))
        raise typer.Exit(128 + stopped.signal_number) from None
    if is_main:
        say(f"{output}: the model is in {model}")


def check_fit(recipe: "Recipe") -> None:
    """Checks that views and settings of a new run fit its model, before weights are read.

    Of files nothing is checked, and of timm's models the name.

    Raises:
        OSError: if the configuration of the model cannot be read.
        WrongUsage: if there is no such model, a side of the views is not a multiple of its patch size, or the settings
            ask for weights of other shapes.
    """
    from stellar_hub.features.backbones.open_backbone import check_spec
    from stellar_hub.modeling import StellarConfig
    from stellar_hub.training.initialization import check_architecture
    from stellar_hub.training.start import resolve_sizes

    init = str(recipe.model.init)
    if init.startswith("timm:"):
        with wrong_usage():
            check_spec(init)
    if init.startswith("timm:") or Path(init).is_file():
        return
    if init != "random":
        check_name(init)
    config = StellarConfig() if init == "random" else StellarConfig.from_pretrained(init)
    with wrong_usage():
        resolve_sizes(recipe, StellarConfig.from_dict({**config.to_dict(), **recipe.model.config}))
        if init != "random":
            check_architecture(recipe.model, config)


def start_of(recipe: "Recipe", resume: str | None) -> str:
    """Returns what a run loads before its first step, in words."""
    if resume is not None:
        return f"the {'newest ' if resume == 'auto' else ''}checkpoint, and the list of images"
    return (
        "the list of images"
        if recipe.model.init in ("random", None)
        else f"{recipe.model.init}, and the list of images"
    )


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
    if resume == "auto":
        return recipe_of_run(output, settings), None
    read_state(Path(resume))
    return recipe_of_run(Path(resume).absolute().parents[1], settings), None


def with_sources(recipe: "Recipe", data: Sequence[str], settings: Sequence[str]) -> tuple["Recipe", str | None]:
    """Returns the recipe with sources of images, and a note if its `data.repeats` are for another number of several.

    Raises:
        ValueError: if the user sets `data.repeats` for another number of sources.
    """
    repeats, note = recipe.data.repeats, None
    chosen_repeats = any("repeats" in setting.partition("=")[0] for setting in settings)
    if len(repeats) not in (0, len(data)) and not chosen_repeats:
        if len(data) > 1:  # a single source is used once in any case
            numbers = "1 number" if len(repeats) == 1 else f"{len(repeats)} numbers"
            note = (
                f"note: data.repeats of the recipe has {numbers}, but there are {len(data)} sources: each is used once"
            )
        repeats = ()
    return recipe.with_values("data", sources=tuple(data), repeats=repeats), note
