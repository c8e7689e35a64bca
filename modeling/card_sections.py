"""Sections of a model card or page that a program writes: each is between two marks, and a later run replaces it."""

import os
import re

# The last sections of a card, with the mark before one that a program wrote. A new section goes before them.
LAST_SECTIONS = re.compile(
    r"^(?:<!-- [^\n]* -->\n)?## (?:Limit|What the weights are not for|Licen[cs]e)", re.MULTILINE | re.IGNORECASE
)


def section_marks(name: str) -> tuple[str, str]:
    """Returns the two lines around the section of a name, such as "training" or "stellar-hub eval knn"."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def read_section(card: str, name: str, path: str | os.PathLike[str] = "the card") -> str | None:
    """Returns the text between the marks of a section, or None if the card does not have the section.

    Args:
        card: Text of the card.
        name: Name of the section, which is in its marks.
        path: Name of the card in an error.

    Raises:
        ValueError: if a mark is missing, is there twice, or the marks are in the wrong order.
    """
    place = _place(card, name, path)
    start, end = section_marks(name)
    return None if place is None else card[place.start + len(start) : place.stop - len(end)].strip()


def write_section(card: str, name: str, text: str, path: str | os.PathLike[str] = "the card") -> str:
    """Returns the card with a section in it.

    The section replaces an earlier one of the same name. A new section goes before the card's sections about limits
    and license, or to its end.

    Args:
        card: Text of the card.
        name: Name of the section, which is in its marks.
        text: Text of the section.
        path: Name of the card in an error.

    Raises:
        ValueError: if a mark is missing, is there twice, or the marks are in the wrong order.
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
    """Returns the part of the card from a section's first mark to its last closing mark, or None."""
    start, end = section_marks(name)
    first, last = card.find(start), card.rfind(end)
    if first < 0 and last < 0:
        return None
    if card.count(start) != 1 or last < first:
        raise ValueError(
            f"{path} must have one mark {start} and after it {end}, or neither, "
            f"got {card.count(start)} and {card.count(end)}: repair the marks by hand"
        )
    return slice(first, last + len(end))
