"""All reports of a scorecard in one file of JSON and one of Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.evaluation.report.card import TITLES
from stellar_hub.evaluation.report.report import FORMAT, Report
from stellar_hub.evaluation.report.table import markdown_section
from stellar_hub.modeling.atomic_write import write_atomically

NAME = "scorecard"


def scorecard_json(reports: Sequence[Report]) -> str:
    """All fields of all reports, by task."""
    fields = {"format": FORMAT, "tasks": {report.task: report.as_dict() for report in reports}}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"


def scorecard_markdown(reports: Sequence[Report], heading: str = "# Scorecard") -> str:
    """A section for each report; pictures are linked as they lie beside it."""
    level = "#" * (heading.index(" ") + 1)
    parts = [heading]
    for report in reports:
        pictures = "\n\n".join(f"![{name}]({name}.png)" for name in report.pictures)
        parts.append(
            "\n\n".join([f"{level} {TITLES[report.task]}", markdown_section(report), *([pictures] if pictures else [])])
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_scorecard(reports: Sequence[Report], output: Path) -> list[Path]:
    """Write `scorecard.md` and `scorecard.json` to a folder that exists, each whole or not at all."""
    targets = [output / f"{NAME}.md", output / f"{NAME}.json"]
    for target, text in zip(targets, (scorecard_markdown(reports), scorecard_json(reports)), strict=True):
        write_atomically(target, text.encode())
    return targets
