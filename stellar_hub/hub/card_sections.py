"""Sections of a model card that a program writes: each stands between two marks, and a later run replaces it."""

import os
import re

# A card ends with these: a new section goes before them.
LAST_SECTIONS = re.compile(r"^## (Limit|What the weights are not for|Licen[cs]e)", re.MULTILINE | re.IGNORECASE)


def section_marks(name: str) -> tuple[str, str]:
    """Returns the two lines around the section of a name, such as "training" or "stellar-hub eval knn"."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def read_section(card: str, name: str, path: str | os.PathLike[str] = "the card") -> str | None:
    """Returns the text between the marks of a section, or None where the card does not have it.

    Raises:
        ValueError: if a mark is missing or stands twice, or the marks are in the wrong order; it names `path`.
    """
    place = _place(card, name, path)
    start, end = section_marks(name)
    return None if place is None else card[place.start + len(start) : place.stop - len(end)].strip()


def write_section(card: str, name: str, text: str, path: str | os.PathLike[str] = "the card") -> str:
    """Returns the card with a section in it.

    The section takes the place of an earlier one of the same name. A new one goes before the card's limits and
    license, or to its end.

    Args:
        card: The card's text.
        name: The section's name, which is in its marks.
        text: The section.
        path: What to call the card in an error.

    Raises:
        ValueError: if a mark is missing or stands twice, or the marks are in the wrong order; it names `path`.
    """
    start, end = section_marks(name)
    block = f"{start}\n{text.strip()}\n{end}\n"
    place = _place(card, name, path)
    if place is not None:
        return card[: place.start] + block + card[place.stop :].removeprefix("\n")
    last = LAST_SECTIONS.search(card)
    if last is None:
        return f"{card.rstrip()}\n\n{block}" if card.strip() else block
    return f"{card[: last.start()]}{block}\n{card[last.start() :]}"


def _place(card: str, name: str, path: str | os.PathLike[str]) -> slice | None:
    """The part of the card from the first mark of a section to its last; the text may hold the closing mark too."""
    start, end = section_marks(name)
    first, last = card.find(start), card.rfind(end)
    if first < 0 and last < 0:
        return None
    if card.count(start) != 1 or last < first:
        raise ValueError(
            f"{path} has {card.count(start)} marks {start} and {card.count(end)} marks {end}: "
            "leave one pair in this order, or none"
        )
    return slice(first, last + len(end))
