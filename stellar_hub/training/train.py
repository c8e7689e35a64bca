"""`train`: the whole run, from a recipe to a model for inference."""

import os
from pathlib import Path

from stellar_hub.training.exports import MODEL_FOLDER, push_export
from stellar_hub.training.loop import export, run_loop
from stellar_hub.training.recipe import Recipe
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
        recipe: What `load_recipe` gives, with folders of pictures and something to begin from.
        output: Folder of the run: `recipe.yaml`, `metrics.jsonl`, `curves.png`, `pictures/`, `checkpoints/`, and at
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
