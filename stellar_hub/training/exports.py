"""What a run gives away: the model for inference, with a card that says how it was made; and the same on the Hub."""

import io
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from stellar_hub.hub.card_sections import read_section
from stellar_hub.hub.push import push
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.monitoring.quantities import curves_of
from stellar_hub.training.monitoring.training_card import SECTION, training_section, write_training_card
from stellar_hub.training.recipes.files import to_dict, write_yaml
from stellar_hub.training.recipes.sections import Recipe, RunRecipe
from stellar_hub.visualization import draw_curves

MODEL_FOLDER = "model"
CURVES_FILE = "curves.png"
PREVIEW_FILE = "reconstructions.png"
JOURNAL_FILE = "metrics.jsonl"


def export_model(
    output: Path,
    model: StellarModel,
    recipe: Recipe,
    facts: Mapping[str, object],
    image: bytes | None,
) -> Path:
    """Write OUTPUT/model, replacing an earlier one as a whole, and OUTPUT/curves.png.

    Args:
        output: The run's folder.
        model: The model for inference.
        recipe: As it was run.
        facts: Of the run, for the card.
        image: A PNG of fixed images, or None.

    Returns:
        The folder, which `StellarModel.from_pretrained` loads.

    Raises:
        OSError: if it cannot be written; an earlier one stays.
    """
    journal = output / JOURNAL_FILE
    records = read_journal(journal) if journal.exists() else []
    curves = io.BytesIO()
    if records:
        draw_curves(curves_of(records)).save(curves, format="PNG")
        write_atomically(output / CURVES_FILE, curves.getvalue())
    final, part, old = output / MODEL_FOLDER, output / f".{MODEL_FOLDER}.part", output / f".{MODEL_FOLDER}.old"
    if old.exists() and not final.exists():
        os.replace(old, final)  # a run was killed between the two names
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        model.save_pretrained(part, name=output.absolute().name, license=recipe.run.license)
        for name, data in ((CURVES_FILE, curves.getvalue()), (PREVIEW_FILE, image)):
            if data:
                write_atomically(part / name, data)
        last = {name: value for name, value in (records[-1] if records else {}).items() if name != "step"}
        section = training_section(write_yaml(without_paths(recipe)), facts, last, bool(records), image is not None)
        write_training_card(part, section)
        if final.exists():
            os.replace(final, old)
        os.replace(part, final)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not final.exists():
            os.replace(old, final)
        if isinstance(error, SafetensorError):  # the disk's fault, but no OSError
            raise OSError(f"the model could not be written to {final}: {error}") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    return final


def without_paths(recipe: Recipe) -> dict[str, dict[str, object]]:
    """A recipe for everyone to read: of absolute paths, which tell of one's machine, the last part only."""
    values = to_dict(recipe)
    model, data = values["model"], values["data"]
    for key in ("init", "vqgan"):
        model[key] = last_part(model[key])
    data["sources"] = [last_part(source) for source in data["sources"]]
    return values


def last_part(path: str | None) -> str | None:
    """The name of a file or folder given by an absolute path; anything else as it is."""
    return os.path.basename(os.path.normpath(path)) if path is not None and os.path.isabs(path) else path


def push_export(output: Path, model: StellarModel, recipe: RunRecipe) -> None:
    """Push the model to `recipe.push_to_hub`, with the images and the training section of OUTPUT/model.

    Raises:
        OSError: if it is not pushed, and why; OUTPUT/model is there all the same.
    """
    assert recipe.push_to_hub is not None
    folder = output / MODEL_FOLDER
    try:
        push(model, recipe.push_to_hub, license=recipe.license, private=True, finish=partial(add_training, folder))
    except (ValueError, OSError) as error:
        raise OSError(f"{error}; the model is whole in {folder}, and --resume auto pushes it again") from error


def add_training(source: Path, target: Path) -> None:
    """Bring what a card says of the training, and the images it shows, from one saved model's folder to another's."""
    section = read_section((source / "README.md").read_text(encoding="utf-8"), SECTION, source / "README.md")
    if section is not None:
        write_training_card(target, section)
    for name in (CURVES_FILE, PREVIEW_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
