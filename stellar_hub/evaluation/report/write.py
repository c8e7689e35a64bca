"""Writing reports to a folder, and into a card."""

import io
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.evaluation.report.card import check_marks, update_card
from stellar_hub.evaluation.report.report import Report
from stellar_hub.modeling.atomic_write import write_atomically


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
    """Write TASK.json and the pictures to a folder, and the section into a card, each file whole or not at all.

    The JSON comes last, so that where it is, all is.

    Returns:
        What was written.
    """
    written = []
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, picture in report.pictures.items():
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG")
            write_atomically(output / f"{name}.png", buffer.getvalue())
            written.append(output / f"{name}.png")
        write_atomically(output / f"{report.task}.json", report.as_json().encode())
        written.append(output / f"{report.task}.json")
    if card is not None:
        text = update_card(card.read_text(encoding="utf-8"), report)
        write_atomically(card, text.encode())
        written.append(card)
    return written
