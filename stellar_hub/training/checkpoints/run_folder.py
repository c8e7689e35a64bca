"""The folder of a run: whether a run may begin or resume there, and from which checkpoint."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.training.checkpoints.checkpoints import Checkpoints, check_whole, read_state
from stellar_hub.training.recipes.differences import differences, refuse_other_recipe
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe, config_fields

RECIPE_FILE = "recipe.yaml"
CHECKPOINTS_FOLDER = "checkpoints"
PREVIEWS_FOLDER = "previews"
# What names of fields that came with a later release begin with.
LATER_FIELDS = ("token_objective", "sop_", "baseline_", "nested_dropout")


def refuse_run(output: Path, checkpoints: Checkpoints, other: bool = False) -> None:
    """Raises FileExistsError if the folder in which a run is to begin holds a run.

    Args:
        output: Folder of the run; it need not exist.
        checkpoints: Checkpoints of the folder.
        other: Whether the run begins from a checkpoint of another folder.
    """
    if holds_run(output, checkpoints):
        raise FileExistsError(
            f"{output} already holds {'another' if other else 'a'} run; "
            "resume it with --resume auto, or name another --output"
        )


def find_start(
    output: Path, resume: str | os.PathLike[str] | None, checkpoints: Checkpoints
) -> tuple[Path | None, list[str]]:
    """Returns the checkpoint that a run resumes from, or None for a run that begins; and what the user should know.

    Args:
        output: Folder of the run.
        resume: None for a run that begins, "auto" for the newest checkpoint of the folder that is whole if there is
            one, or the path of a checkpoint. Where the folder is new, the checkpoint may be of another run.
        checkpoints: Checkpoints of the folder.

    Raises:
        FileExistsError: if the folder holds a run that `resume` does not name, or is a file.
        FileNotFoundError: if the checkpoint does not exist, or lacks a file.
        ValueError: if the checkpoint is damaged, or all of them are.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file; name a folder")
    if str(resume) == "auto":
        newest, damaged = checkpoints.newest_whole()
        goes_on = f"the run goes on from {newest.name}" if newest else ""
        return newest, [f"a checkpoint cannot be used, so {goes_on}: {sentence}" for sentence in damaged]
    start = None if resume is None else Path(resume)
    if start is not None:
        check_whole(start)
    if start is None or start.resolve().parent != checkpoints.folder.resolve():
        refuse_run(output, checkpoints, other=start is not None)
    return start, []


def holds_run(output: Path, checkpoints: Checkpoints) -> bool:
    """Returns whether a folder holds a run, whole or not."""
    return (output / RECIPE_FILE).exists() or bool(checkpoints.all_steps())


def recipe_of_run(output: Path, settings: Sequence[str] = ()) -> Recipe:
    """Reads the recipe that a run started with.

    Args:
        output: Folder of the run.
        settings: Values to replace, as `load_recipe` takes them.

    Raises:
        FileNotFoundError: if the folder does not hold a run.
        ValueError: if the recipe or a setting is wrong, or a setting would change the run's result.
    """
    path = output / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{output} has no {RECIPE_FILE} of a run to resume; pass --recipe to begin a run")
    recipe = load_recipe(path)
    if not settings:
        return recipe
    changed = load_recipe(path, settings)
    refuse_other_recipe(recipe, changed)
    return changed


def check_same_run(checkpoint: Path, recipe: Recipe, facts: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuses to resume from a checkpoint of another recipe, other data or another architecture.

    Args:
        checkpoint: Folder of the checkpoint; the recipe of its run is two folders up.
        recipe: Recipe of the run that resumes, with its sizes resolved.
        facts: "fingerprint" and "num_images" of the data that it reads.
        config: Configuration of its model.

    Raises:
        ValueError: if something differs; the message names each difference.
    """
    state = read_state(checkpoint)
    before = checkpoint.absolute().parents[1] / RECIPE_FILE
    sources: tuple[str, ...] = ()
    if before.is_file():
        started = load_recipe(before)
        sources = started.data.sources
        refuse_other_recipe(with_later_fields(started), with_later_fields(recipe))
    lines = data_differences(state, facts, sources, recipe.data.sources)
    # The other fields are transformers' own; saving changes some of them.
    own = config_fields()
    both = (later_fields() | of for of in (state.get("config", {}), config))
    before_and_now = ({name: of[name] for name in own if name in of} for of in both)
    lines += [f"model: {line}" for line in differences(*before_and_now)]
    if lines:
        raise ValueError(
            f"{checkpoint} cannot be resumed, as data or model differ:\n  "
            + "\n  ".join(lines)
            + "\nBegin a new run with another --output; --init starts it from the checkpoint's weights"
        )


def data_differences(
    state: dict[str, Any], facts: dict[str, Any], before: Sequence[str], now: Sequence[str]
) -> list[str]:
    """Returns a line if the images of a run are not those that it began with.

    Args:
        state: "fingerprint" and "num_images" of a checkpoint.
        facts: The same of the images that are read now.
        before: Sources of the run; empty if they are not known.
        now: Sources that are read now.
    """
    if all(state.get(name) == found for name, found in facts.items()):
        return []
    counted = [
        f"{of.get('num_images') or 'a stream'} of {mask_secrets(', '.join(names)) or 'unknown sources'}"
        for of, names in ((state, before), (facts, now))
    ]
    same_number = state.get("num_images") == facts.get("num_images")
    differing = "; their names or sizes differ" if same_number else ""
    return [one_line(f"images: {counted[0]} in the run, {counted[1]} now{differing}")]


def later_fields() -> dict[str, Any]:
    """Returns fields of the configuration that earlier runs did not save, with the values that these stand for."""
    default = StellarConfig().to_dict()
    return {name: default[name] for name in config_fields() if name.startswith(LATER_FIELDS)}


def with_later_fields(recipe: Recipe) -> Recipe:
    """Returns the recipe with the fields of the configuration that came later, where it does not state them."""
    return recipe.with_values("model", config=later_fields() | recipe.model.config)


def check_space(folder: Path, needed: int) -> str | None:
    """Returns a warning if the disk has less space than the checkpoints of a run need, and else None.

    Args:
        folder: Folder of the run; it need not exist.
        needed: Number of bytes that the checkpoints need.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    return f"the disk of {folder} has {free / 1e9:.1f} GB left, but the run's checkpoints need {needed / 1e9:.1f} GB"
