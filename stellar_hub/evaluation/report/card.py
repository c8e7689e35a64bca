"""A report in a model card: a section between two marks, which a later run replaces."""

import re

from stellar_hub.evaluation.report.report import Report
from stellar_hub.evaluation.report.table import markdown_section

TITLES = {
    "knn": "Classification by nearest neighbours",
    "linear": "Linear classification",
    "segmentation": "Segmentation",
    "reconstruction": "Reconstruction",
    "diagnostics": "Diagnostics",
}


def update_card(card: str, report: Report) -> str:
    """The card's text with the report in it: in the place of an earlier one of this task, or at the end.

    Raises:
        ValueError: if the marks are damaged.
    """
    start, end = marks(report.task)
    section = f"{start}\n### {TITLES[report.task]}\n\n{markdown_section(report)}\n{end}"
    check_marks(card, report.task)
    if start not in card:
        return f"{card.rstrip()}\n\n{section}\n"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: section, card)


def check_marks(card: str, task: str) -> None:
    """Raise ValueError unless the card has no section of this task, or one with both marks, in order."""
    start, end = marks(task)
    counts = card.count(start), card.count(end)
    if counts != (0, 0) and (counts != (1, 1) or card.index(start) > card.index(end)):
        raise ValueError(f"the card has {counts[0]} marks {start} and {counts[1]} marks {end}: leave one pair, or none")


def marks(task: str) -> tuple[str, str]:
    """The lines around a task's section."""
    return f"<!-- stellar-hub eval {task} -->", f"<!-- /stellar-hub eval {task} -->"
