"""The exports of a run: the model for inference, with a card that says how it was trained; and its push to the Hub."""

import io
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from stellar_hub.hub.push import base_model_of, carry_card, push
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import replaced_folder, write_atomically
from stellar_hub.modeling.card_sections import read_section
from stellar_hub.modeling.safe_text import mask_secrets
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.monitoring.quantities import curves_of
from stellar_hub.training.monitoring.training_card import SECTION, training_section, write_training_card
from stellar_hub.training.recipes.files import to_dict, write_yaml
from stellar_hub.training.recipes.sections import Recipe, RunRecipe
from stellar_hub.training.run import JOURNAL_FILE, Run
from stellar_hub.training.sharding import is_sharded
from stellar_hub.training.start import describe_devices
from stellar_hub.training.step_choices import describe_choices
from stellar_hub.version import __version__
from stellar_hub.visualization import draw_curves

MODEL_FOLDER = "model"
CURVES_FILE = "curves.png"
PREVIEW_FILE = "reconstructions.png"


def export_model(
    output: Path,
    model: StellarModel,
    recipe: Recipe,
    facts: Mapping[str, object],
    preview: bytes | None,
) -> Path:
    """Writes OUTPUT/curves.png and OUTPUT/model, which replaces an earlier one as a whole.

    Args:
        output: Folder of the run.
        model: The model for inference.
        recipe: The recipe of the run, with all values resolved.
        facts: Facts of the run for the card, from `card_facts`.
        preview: Preview of the run as a PNG, or None.

    Returns:
        The folder, which `StellarModel.from_pretrained` loads.

    Raises:
        OSError: if the model cannot be written; an earlier one stays.
    """
    journal = output / JOURNAL_FILE
    records = read_journal(journal) if journal.exists() else []
    curves = io.BytesIO()
    if records:
        draw_curves(curves_of(records)).save(curves, format="PNG")
        write_atomically(output / CURVES_FILE, curves.getvalue())
    final = output / MODEL_FOLDER
    for leftover in output.glob(f".{MODEL_FOLDER}*.part"):  # a killed run did not finish it
        shutil.rmtree(leftover, ignore_errors=True)
    # A line of the journal may have the numbers of a probe alone.
    last = {name: value for record in records for name, value in record.items() if name != "step"}
    try:
        with replaced_folder(final) as part:
            carry_card(final, part)  # what a person wrote into it stays
            model.save_pretrained(
                part,
                name=output.absolute().name,
                license=recipe.run.license,
                base_model=base_model_of(recipe.model.init),
            )
            for name, data in ((CURVES_FILE, curves.getvalue()), (PREVIEW_FILE, preview)):
                if data:
                    write_atomically(part / name, data)
            text = write_yaml(without_paths(recipe))
            write_training_card(part, training_section(text, facts, last, bool(records), preview is not None))
    except SafetensorError as error:  # raised for a full disk, but not an OSError
        raise OSError(f"the model could not be written to {final}: {error}") from error
    return final


def is_exported(output: Path, num_steps: int) -> bool:
    """Returns whether OUTPUT/model is the model after the last step, as its card says."""
    card = output / MODEL_FOLDER / "README.md"
    try:
        section = read_section(card.read_text(encoding="utf-8"), SECTION, card)
    except (OSError, ValueError):
        return False
    return section is not None and f"| steps | {num_steps} of {num_steps} |" in section


def card_facts(run: Run, done: int) -> dict[str, object]:
    """Returns what the model's card says about a run after `done` steps."""
    optimization, accelerator = run.recipe.optimization, run.accelerator
    seconds = time.monotonic() - run.started
    return {
        "steps": f"{done} of {run.num_steps}",
        "images seen": done * optimization.batch_size * optimization.gradient_accumulation_steps,
        "images in the data": run.batches.facts["num_images"],
        "images that could not be read": len(run.skipped) or None,
        "initialized from": without_folders(run.recipe.model.init),
        "device": describe_devices(accelerator, is_sharded(run.model)),
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "computed with": describe_choices(run.recipe, run.stepper),
        "time": f"{seconds / 60:.1f} minutes" + (f" since step {run.start_step}" if run.start_step else ""),
        "probes": None if run.probe is None or not run.probe.num_probes else f"{run.probe.share:.1%} of the time",
        "library": f"stellar_hub {__version__}, torch {torch.__version__}",
    }


def without_paths(recipe: Recipe) -> dict[str, dict[str, object]]:
    """Returns a recipe that can be published.

    Absolute paths, which describe a machine, keep only their last part, and addresses lose passwords and signatures.
    """
    values = to_dict(recipe)
    model, data = values["model"], values["data"]
    for key in ("init", "vqgan"):
        model[key] = without_folders(model[key])
    for key in ("root", "probe"):
        data[key] = without_folders(data[key])
    data["sources"] = [without_folders(source) for source in data["sources"]]
    return values


def without_folders(path: str | None) -> str | None:
    """Returns the last part of an absolute path, an address without its secrets, and anything else as it is."""
    if path is None:
        return None
    return os.path.basename(os.path.normpath(path)) if os.path.isabs(path) else mask_secrets(path)


def push_export(output: Path, model: StellarModel, recipe: RunRecipe) -> None:
    """Pushes the model to `recipe.push_to_hub`, with the card of OUTPUT/model and its images.

    Raises:
        OSError: if the Hub refuses it; OUTPUT/model stays complete.
    """
    assert recipe.push_to_hub is not None
    folder = output / MODEL_FOLDER
    try:
        push(model, recipe.push_to_hub, license=recipe.license, private=True, card_folder=folder)
    except (ValueError, OSError) as error:
        raise OSError(f"{error}; the model is complete in {folder}, and --resume auto pushes it again") from error
