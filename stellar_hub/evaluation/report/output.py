"""Reports as tables, JSON, Markdown and sections of a model card, written to a folder."""

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.evaluation.report.report import FORMAT, Measurement, Report
from stellar_hub.modeling.atomic_write import write_atomically

ONE_DECIMAL, TWO_DECIMALS = ("%",), ("dB",)


def rows_of(measurements: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: model, features where there are any, and a column for each metric."""
    metrics = list(dict.fromkeys(name for each in measurements for name in each.metrics))
    named = any(each.features for each in measurements)
    header = ["model", *(["features"] if named else []), *metrics]
    cells = [
        [each.model, *([each.features] if named else []), *(number(name, each.metrics.get(name)) for name in metrics)]
        for each in measurements
    ]
    return header, cells


def number(name: str, value: float | None) -> str:
    """A value in as many digits as its unit, at the end of its name, deserves; empty where there is none."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    digits = 1 if name.endswith(ONE_DECIMAL) else 2 if name.endswith(TWO_DECIMALS) else None
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def terminal_table(report: Report) -> str:
    """Aligned columns; a table with many metrics and few rows stands on its side."""
    header, cells = rows_of(report.measurements)
    return aligned([header, *cells] if len(header) <= 8 else transposed(header, cells))


def transposed(header: list[str], cells: list[list[str]]) -> list[list[str]]:
    """One line for each column of a table."""
    return [list(line) for line in zip(header, *cells, strict=True)]


def aligned(lines: list[list[str]]) -> str:
    """Lines of cells as text, the first column to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "-" * max(len(text) for text in texts), *texts[1:]])


def markdown_table(report: Report) -> str:
    """The same in Markdown."""
    header, cells = rows_of(report.measurements)
    lines = [header, *cells] if len(header) <= 8 else transposed(header, cells)
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|---" * len(lines[0]) + "|", *texts[1:]])


def markdown_section(report: Report) -> str:
    """Table, protocol, data and notes: all a reader needs to judge the numbers."""
    protocol = ", ".join(f"{name} {value}" for name, value in report.protocol.items())
    data = "; ".join(
        f"{split}: {facts['num_images']} images of {facts['name']}"
        for split, facts in report.data.items()
        if isinstance(facts, dict) and "num_images" in facts
    )
    parts = [markdown_table(report), f"Protocol: {protocol}.", f"Data: {data}."]
    parts += [f"Computed by {', '.join(f'{k} {v}' for k, v in report.backends.items())}."] if report.backends else []
    parts += [f"Note: {note}." for note in report.notes]
    return "\n\n".join(parts)


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


NAME = "scorecard"


def scorecard_json(reports: Sequence[Report]) -> str:
    """All fields of all reports, by task."""
    fields = {"format": FORMAT, "tasks": {report.task: report.as_dict() for report in reports}}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"


def scorecard_markdown(reports: Sequence[Report], heading: str = "# Scorecard") -> str:
    """A section for each report; images are linked as they lie beside it."""
    level = "#" * (heading.index(" ") + 1)
    parts = [heading]
    for report in reports:
        images = "\n\n".join(f"![{name}]({name}.png)" for name in report.images)
        parts.append(
            "\n\n".join([f"{level} {TITLES[report.task]}", markdown_section(report), *([images] if images else [])])
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_scorecard(reports: Sequence[Report], output: Path) -> list[Path]:
    """Write `scorecard.md` and `scorecard.json` to a folder that exists, each whole or not at all."""
    targets = [output / f"{NAME}.md", output / f"{NAME}.json"]
    for target, text in zip(targets, (scorecard_markdown(reports), scorecard_json(reports)), strict=True):
        write_atomically(target, text.encode())
    return targets


def check_targets(tasks: Sequence[str], output: Path | None, card: Path | None, overwrite: bool) -> None:
    """Refuse before any work what would fail at its end.

    Raises:
        OSError: if a report is there already and may not be replaced, or the card cannot be read.
        ValueError: if marks in the card are damaged.
    """
    if output is not None:
        if output.exists() and not output.is_dir():
            raise FileExistsError(f"--output {output} is a file; name a folder")
        existing = [output / f"{task}.json" for task in tasks if (output / f"{task}.json").exists()]
        if existing and not overwrite:
            raise FileExistsError(f"{existing[0]} exists already: pass --overwrite or another --output")
    if card is not None:
        if not card.is_file():
            raise FileNotFoundError(f"--update-card {card}: no such file")
        text = card.read_text(encoding="utf-8")
        for task in tasks:
            check_marks(text, task)


def write_report(report: Report, output: Path | None, card: Path | None) -> list[Path]:
    """Write TASK.json and the images to a folder, and the section into a card, each file whole or not at all.

    The JSON comes last, so that where it is, all is.

    Returns:
        What was written.
    """
    written = []
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, image in report.images.items():
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            write_atomically(output / f"{name}.png", buffer.getvalue())
            written.append(output / f"{name}.png")
        write_atomically(output / f"{report.task}.json", report.as_json().encode())
        written.append(output / f"{report.task}.json")
    if card is not None:
        text = update_card(card.read_text(encoding="utf-8"), report)
        write_atomically(card, text.encode())
        written.append(card)
    return written
