"""`train`: the whole run, from a recipe to a model for inference."""

import dataclasses
import os
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

import typer
from transformers.utils import logging

from stellar_hub.training.checkpoints.checkpoints import read_state
from stellar_hub.training.checkpoints.run_folder import recipe_of_run
from stellar_hub.training.exports import MODEL_FOLDER, push_export
from stellar_hub.training.loop import Stopped, export, run_loop
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import build_run


def train(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    cpu: bool = False,
    reference_batch_size: int | None = None,
) -> Path:
    """Train by a recipe; alone, or in each process of `accelerate launch`.

    Args:
        recipe: What `load_recipe` gives, with folders of images and something to begin from.
        output: Folder of the run: `recipe.yaml`, `metrics.jsonl`, `curves.png`, `images/`, `checkpoints/`, and at
            the end `model/`.
        resume: None begins, and refuses a folder that holds a run; "auto" goes on from its newest checkpoint, or
            begins; a path goes on from that checkpoint. A resumed run ends with the very weights of one that was
            never interrupted, on CPUs bit for bit.
        cpu: Whether to stay on the CPU where there is a GPU.
        reference_batch_size: The batch the recipe was made for; a much smaller one is warned of.

    Returns:
        The folder of the model for inference, OUTPUT/model.

    Raises:
        ValueError: if recipe, data, model and number of processes do not fit each other, or a resume is of another run.
        OSError: if something cannot be read or written; checkpoints that are there stay whole.
        Stopped: if SIGTERM or Ctrl-C asked for it, after a checkpoint was saved.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    run = build_run(recipe, output, resume=resume, cpu=cpu, reference_batch_size=reference_batch_size)
    try:
        run_loop(run)
        run.accelerator.wait_for_everyone()
        model = export(run, run.num_steps)
        # No process waits for the first one from here on: an upload may take longer than a collective is allowed to.
        if model is not None and run.recipe.run.push_to_hub is not None:
            push_export(run.output, model, run.recipe.run)
    finally:
        if run.recipe.run.trackers:
            run.accelerator.end_training()
    return Path(output) / MODEL_FOLDER


def train_by_options(
    output: Path,
    data: Sequence[str],
    recipe_name: str | None,
    init: str | None,
    overrides: Sequence[str],
    resume: str | None,
    cpu: bool,
) -> Path | None:
    """Train.

    Returns:
        The model's folder; None in all processes but the first.

    Raises:
        typer.Exit: with 128 plus the signal's number, if a signal ended the run after its checkpoint was saved.
        ValueError: if options do not fit each other; and what `train` raises.
    """
    recipe, reference = chosen_recipe(output, recipe_name, overrides, resume)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if not is_main:  # one process says it for all
        getLogger("stellar_hub").setLevel("ERROR")
    if data:
        repeats, asked = recipe.data.repeats, any("repeats" in override.partition("=")[0] for override in overrides)
        if len(repeats) not in (0, len(data)) and not asked:
            if is_main:
                typer.echo(
                    f"note: data.repeats {list(repeats)} is not for {len(data)} sources: each comes once", err=True
                )
            repeats = ()
        sources = tuple(data)
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, sources=sources, repeats=repeats))
    if init is not None:
        recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, init=init))
    if not recipe.data.sources:
        raise ValueError("no images are given: pass --data FOLDER, a list, tar files or tables")
    logging.disable_progress_bar()
    try:
        model = train(recipe, output, resume=resume, cpu=cpu, reference_batch_size=reference)
    except Stopped as stopped:
        if is_main:
            typer.echo(str(stopped), err=True)
        raise typer.Exit(128 + stopped.signal_number) from None
    return model if is_main else None


def chosen_recipe(
    output: Path, name: str | None, overrides: Sequence[str], resume: str | None
) -> tuple[Recipe, int | None]:
    """The recipe asked for, and the batch it was made for; a resumed run brings its own."""
    if name is not None:
        return load_recipe(name, overrides), load_recipe(name).optimization.batch_size
    if resume is None:
        raise ValueError("no recipe is given: pass --recipe, such as --recipe finetune")
    if overrides:
        raise ValueError("--set changes a recipe: pass --recipe too")
    if resume == "auto":
        return recipe_of_run(output), None
    read_state(Path(resume))
    return recipe_of_run(Path(resume).absolute().parents[1]), None
