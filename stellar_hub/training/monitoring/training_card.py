"""The section of a model's card on its training."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import write_section
from stellar_hub.modeling.model_card import markdown_text, read_card
from stellar_hub.modeling.safe_text import escape_control, mask_secrets
from stellar_hub.training.monitoring.quantities import good, in_order, label

SECTION = "training"  # the name in the section's marks


def training_section(
    recipe_yaml: str,
    facts: Mapping[str, object],
    final: Mapping[str, float],
    has_curves: bool,
    has_preview: bool,
) -> str:
    """Returns the section in Markdown, with its heading.

    Args:
        recipe_yaml: The recipe with every value resolved.
        facts: Names and values that describe the run: steps, images seen, device, precision, time, ... They are shown
            in this order; a value of None is left out.
        final: Last losses and meters by name; each is shown with what is good.
        has_curves: Whether `curves.png` is beside the card.
        has_preview: Whether `reconstructions.png` is beside the card.
    """
    parts = ["## Training\n", _table(("", ""), [(name, value) for name, value in facts.items() if value is not None])]
    if final:
        rows = [(label(name), f"{float(final[name]):.4g}", good(name)) for name in in_order(set(final))]
        parts += ["Last values:\n", _table(("", "value", "good is"), rows)]
    if has_curves:
        parts.append("![Losses and meters over the steps of the run](curves.png)\n")
    if has_preview:
        parts.append(
            "![Images, their reconstructions, and the tokens' maps](reconstructions.png)\n\n"
            "Each row shows an image, its reconstruction from the tokens, the strongest token of each place, and the "
            "tokens with the sharpest maps.\n"
        )
    parts.append(_folded_recipe(recipe_yaml))
    return "\n".join(part for part in parts if part)


def write_training_card(folder: str | os.PathLike[str], section: str) -> None:
    """Writes the section into the card of a saved model; it replaces an earlier one.

    Args:
        folder: Folder that `save_pretrained` wrote.
        section: Section from `training_section`.

    Raises:
        FileNotFoundError: if the folder has no card.
        ValueError: if the marks of an earlier section do not form a pair.
    """
    path = Path(folder) / "README.md"
    card = read_card(path)
    if card is None:
        raise FileNotFoundError(f"{folder} has no README.md to write the training into; save_pretrained makes one")
    write_atomically(path, write_section(card, SECTION, section, path).encode(errors="surrogateescape"))


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """Returns a Markdown table, or "" without rows."""
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return markdown_text(mask_secrets(str(value))).replace("|", "\\|")


def _folded_recipe(recipe_yaml: str) -> str:
    """Returns the recipe in a block that a reader unfolds; its fence is longer than any inside.

    Addresses in it show no user, password or query. A text like a mark of a section is taken apart.
    """
    recipe_yaml = "\n".join(escape_control(mask_secrets(line)) for line in recipe_yaml.splitlines())
    recipe_yaml = recipe_yaml.replace("<!--", "< !--")
    longest = max((len(run) for run in re.findall(r"`{3,}", recipe_yaml)), default=2)
    fence = "`" * (longest + 1)
    return (
        f"<details>\n<summary>Recipe: what to train again with</summary>\n\n"
        f"{fence}yaml\n{recipe_yaml.rstrip()}\n{fence}\n\n</details>\n"
    )
