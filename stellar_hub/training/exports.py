"""What a run gives away: the model for inference, with a card that says how it was made."""

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.curves import draw_curves
from stellar_hub.training.journal import read
from stellar_hub.training.recipe import Recipe
from stellar_hub.training.recipe_file import to_dict
from stellar_hub.training.recipe_yaml import write_yaml
from stellar_hub.training.training_card import training_section, write_training_card

MODEL_FOLDER = "model"
CURVES_FILE = "curves.png"
PICTURE_FILE = "reconstructions.png"
JOURNAL_FILE = "metrics.jsonl"


def export_model(
    output: Path,
    model: StellarModel,
    recipe: Recipe,
    facts: Mapping[str, object],
    picture: bytes | None,
) -> Path:
    """Write OUTPUT/model, replacing an earlier one as a whole, and OUTPUT/curves.png.

    Args:
        output: The run's folder.
        model: The model for inference.
        recipe: As it was run.
        facts: Of the run, for the card.
        picture: A PNG of fixed images, or None.

    Returns:
        The folder, which `StellarModel.from_pretrained` loads.
    """
    records = read(output / JOURNAL_FILE)
    curves = io.BytesIO()
    if records:
        draw_curves(records).save(curves, format="PNG")
        write_atomically(output / CURVES_FILE, curves.getvalue())
    final, partial, old = output / MODEL_FOLDER, output / f".{MODEL_FOLDER}.part", output / f".{MODEL_FOLDER}.old"
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        model.save_pretrained(partial, name=output.absolute().name, license=recipe.run.license)
        for name, data in ((CURVES_FILE, curves.getvalue()), (PICTURE_FILE, picture)):
            if data:
                write_atomically(partial / name, data)
        last = {name: value for name, value in (records[-1] if records else {}).items() if name != "step"}
        section = training_section(write_yaml(to_dict(recipe)), facts, last, bool(records), picture is not None)
        write_training_card(partial, section)
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not final.exists():
            os.replace(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return final
