"""The folder of a run: what may be written there, and where a run goes on."""

import os
import shutil
from pathlib import Path
from typing import Any

from stellar_hub.training.checkpoints.checkpoints import Checkpoints, read_state
from stellar_hub.training.recipes.differences import differences, refuse_other_recipe
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe, config_fields

RECIPE_FILE = "recipe.yaml"
CHECKPOINTS_FOLDER = "checkpoints"
PREVIEWS_FOLDER = "images"


def find_start(output: Path, resume: str | os.PathLike[str] | None, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint to go on from, or None to begin.

    Args:
        output: The run's folder.
        resume: None refuses a folder that holds a run; "auto" takes its newest checkpoint, if there is one; a path is
            that checkpoint, of this run or, in a new folder, of another.
        checkpoints: The folder's.

    Raises:
        FileExistsError: if the folder holds a run that is not to be resumed, or is a file.
        FileNotFoundError: if the checkpoint does not exist.
        ValueError: if it is damaged.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file; name a folder")
    if str(resume) == "auto":
        return checkpoints.latest()
    start = None if resume is None else Path(resume)
    if start is not None:
        read_state(start)
    inside = start is not None and start.resolve().parent == checkpoints.folder.resolve()
    if not inside and ((output / RECIPE_FILE).exists() or checkpoints.steps()):
        raise FileExistsError(
            f"{output} holds {'a' if start is None else 'another'} run already: go on with it (--resume auto), or name "
            "another --output"
        )
    return start


def recipe_of_run(output: Path) -> Recipe:
    """The recipe a run was started with.

    Raises:
        FileNotFoundError: if the folder holds no run.
    """
    path = output / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{output} holds no run to resume (no {RECIPE_FILE}): pass --recipe to begin one")
    return load_recipe(path)


def check_same_run(checkpoint: Path, recipe: Recipe, facts: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another recipe, other data or another architecture.

    Args:
        checkpoint: The checkpoint's folder; the recipe of its run lies two folders up.
        recipe: The recipe now, sizes resolved.
        facts: Of the data now: "fingerprint", "num_images".
        config: The model's configuration now.

    Raises:
        ValueError: naming each difference.
    """
    state = read_state(checkpoint)
    before = checkpoint.absolute().parents[1] / RECIPE_FILE
    if before.is_file():
        refuse_other_recipe(load_recipe(before), recipe)
    lines = [f"data: {line}" for line in differences({name: state.get(name) for name in facts}, facts)]
    # The rest of a configuration is transformers': saving alone changes some of that.
    own = config_fields()
    before_and_now = ({name: of[name] for name in own if name in of} for of in (state.get("config", {}), config))
    lines += [f"model: {line}" for line in differences(*before_and_now)]
    if lines:
        raise ValueError(
            f"{checkpoint} cannot be resumed, as something else has changed:\n  "
            + "\n  ".join(lines)
            + "\nBegin anew with another --output; --init takes the checkpoint's weights"
        )


def check_space(folder: Path, needed: int) -> str | None:
    """A sentence where the disk has less room than the checkpoints of a run need; None where it has.

    Args:
        folder: The run's; need not be there yet.
        needed: Bytes.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    return f"the disk of {folder} has {free / 1e9:.1f} GB left, the run's checkpoints need {needed / 1e9:.1f} GB"
