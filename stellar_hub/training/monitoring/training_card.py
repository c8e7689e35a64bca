"""How a model was trained, as a section of its card."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.monitoring.quantities import good, in_order, label

OPENING = "<!-- training -->"
CLOSING = "<!-- /training -->"
# What a card ends with: limits and license stay behind the section.
LAST_SECTIONS = re.compile(r"^## (Limit|What the weights are not for|Licen[cs]e)", re.MULTILINE | re.IGNORECASE)


def training_section(
    recipe_yaml: str,
    facts: Mapping[str, object],
    final: Mapping[str, float],
    has_curves: bool,
    has_preview: bool,
) -> str:
    """The section in Markdown, heading included.

    Args:
        recipe_yaml: The resolved recipe.
        facts: Names and values of what the run was: steps, images seen, images in the data, device, precision,
            time, library version; shown in this order. None is left out.
        final: The last losses and meters by name; each is shown with what is good.
        has_curves: Whether `curves.png` lies beside the card.
        has_preview: Whether `reconstructions.png` does.
    """
    parts = ["## Training\n", table(("", ""), [(name, value) for name, value in facts.items() if value is not None])]
    if final:
        rows = [(label(name), f"{float(final[name]):.4g}", good(name)) for name in in_order(set(final))]
        parts += ["Last values:\n", table(("", "value", "good is"), rows)]
    if has_curves:
        parts.append("![Losses and meters over the steps of the run](curves.png)\n")
    if has_preview:
        parts.append(
            "![Images, what is decoded from their tokens, and the tokens' maps](reconstructions.png)\n\n"
            "Images, what is decoded from their tokens, the token each place belongs to most, and the tokens whose "
            "maps are sharpest.\n"
        )
    parts.append(folded_recipe(recipe_yaml))
    return "\n".join(part for part in parts if part)


def table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """A Markdown table; nothing without rows."""
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines) + "\n"


def cell(value: object) -> str:
    """Text that stays within its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def folded_recipe(recipe_yaml: str) -> str:
    """The recipe, folded away."""
    longest = max((len(run) for run in re.findall(r"`{3,}", recipe_yaml)), default=2)
    fence = "`" * (longest + 1)
    return (
        f"<details>\n<summary>Recipe: what to train again with</summary>\n\n"
        f"{fence}yaml\n{recipe_yaml.rstrip()}\n{fence}\n\n</details>\n"
    )


def write_training_card(folder: str | os.PathLike[str], section: str) -> None:
    """Put the section into the card of a saved model, in place of an earlier one.

    Args:
        folder: What `save_pretrained` wrote.
        section: From `training_section`.

    Raises:
        FileNotFoundError: if the folder has no card.
        ValueError: if an earlier section has no end.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no README.md to write the training into; save_pretrained makes one")
    card = path.read_text(encoding="utf-8")
    write_atomically(path, with_section(card, section, path).encode())


def section_of(card: str) -> str | None:
    """What stands between a card's markers; None without them."""
    start, end = card.find(OPENING), card.rfind(CLOSING)
    return card[start + len(OPENING) : end].strip() if 0 <= start < end else None


def with_section(card: str, section: str, path: str | os.PathLike[str] = "the card") -> str:
    """The card with the section between its markers: where an earlier one stood, or before limits and license.

    Raises:
        ValueError: if an opening marker has no closing one.
    """
    block = f"{OPENING}\n{section.strip()}\n{CLOSING}\n"
    start = card.find(OPENING)
    if start >= 0:
        end = card.rfind(CLOSING)
        if end < start:
            raise ValueError(f"{path} has {OPENING} without {CLOSING} after it: add it where the section ends")
        return card[:start] + block + card[end + len(CLOSING) :].removeprefix("\n")
    last = LAST_SECTIONS.search(card)
    if last is None:
        return card.rstrip("\n") + "\n\n" + block
    return card[: last.start()] + block + "\n" + card[last.start() :]
