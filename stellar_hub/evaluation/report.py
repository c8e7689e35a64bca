"""What an evaluation found: as an object, a table, JSON, Markdown, a section of a model card, and files."""

import importlib.metadata
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from stellar_hub.evaluation.left_out import LeftOut, describe_left_out, left_out_facts
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.card_sections import read_section, write_section
from stellar_hub.modeling.safe_text import one_line

FORMAT = 2  # of the JSON; format 1 had other names for features and for counts of images
LIBRARIES = ("stellar_hub", "torch", "timm", "transformers")
TITLES = {
    "knn": "Classification by nearest neighbours",
    "linear": "Linear classification",
    "segmentation": "Segmentation",
    "reconstruction": "Reconstruction",
    "diagnostics": "Diagnostics",
}
SCORECARD = "scorecard"  # name of the files that hold the reports of several protocols
MAX_COLUMNS = 8  # a table with more columns is transposed
ROUNDING = 1e-9  # a metric that is 0 comes out like this
DIGITS = {"%": 1, "dB": 2}  # decimals by unit; other metrics have four significant digits


@dataclass(frozen=True)
class Measurement:
    """One row of a report: the metrics of one model and feature.

    Attributes:
        model: Name of the model as the user wrote it, or of a baseline.
        features: Name of the feature; empty if none applies.
        metrics: Values by name, in the order of the columns. A name ends with its unit. The value is None where a
            metric does not apply.
        details: Values that do not fit a table, such as the chosen learning rate or the accuracy of each class.
    """

    model: str
    features: str
    metrics: dict[str, float | None]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """The result of one protocol, with everything that is needed to repeat it.

    Attributes:
        task: Name of the protocol: "knn", "linear", "segmentation", "reconstruction" or "diagnostics".
        protocol: All fields of the protocol.
        data: Names, counts and hashes of the data.
        models: Facts about each model.
        measurements: Rows of the table.
        backends: Versions of the libraries that computed metrics.
        notes: Remarks that a reader has to know.
        legend: Source, range and good direction of each metric, if its name does not say it.
        images: Figures by file name without suffix.
        left_out: Images that could not be read, and that no model was evaluated with.
    """

    task: str
    protocol: dict[str, Any]
    data: dict[str, Any]
    models: list[dict[str, Any]]
    measurements: list[Measurement]
    backends: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    legend: dict[str, dict[str, str]] = field(default_factory=dict)
    images: dict[str, Image.Image] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Report({self.task!r}); as_dict() has all fields\n{terminal_table(self)}"

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON can hold them: figures by name, and numbers that are not finite as text."""
        fields = {
            "format": FORMAT,
            "task": self.task,
            "protocol": self.protocol,
            "data": self.data,
            "models": self.models,
            "measurements": [asdict(each) for each in self.measurements],
            "backends": self.backends,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "notes": self.notes,
            "num_left_out": len(self.left_out),
            "left_out": left_out_facts(self.left_out),
            "legend": self.legend,
            "images": [f"{name}.png" for name in self.images],
        }
        return _to_json_types(fields)

    def as_json(self) -> str:
        """Returns `as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"


def make_report(
    task: str,
    protocol: Any,
    data: dict[str, Any],
    backbones: Iterable[Backbone],
    rows: Sequence[Measurement],
    **more: Any,
) -> Report:
    """Makes a report from a protocol's dataclass and the evaluated models; `more` are further fields of `Report`."""
    return Report(task, asdict(protocol), data, [asdict(each.facts) for each in backbones], list(rows), **more)


def _to_json_types(value: Any) -> Any:
    """Converts a value to what JSON can hold: tuples to lists, numbers that are not finite to text."""
    if is_dataclass(value) and not isinstance(value, type):
        return _to_json_types(asdict(value))
    if isinstance(value, dict):
        return {str(key): _to_json_types(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_types(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _table(measurements: Sequence[Measurement]) -> list[list[str]]:
    """Returns the lines of a table, the header first: model, features if there are any, and one column per metric."""
    metrics = list(dict.fromkeys(name for each in measurements for name in each.metrics))
    has_features = any(each.features for each in measurements)
    header = ["model", *(["features"] if has_features else []), *metrics]
    rows = [
        [
            each.model,
            *([each.features] if has_features else []),
            *(_format_value(name, each.metrics.get(name)) for name in metrics),
        ]
        for each in measurements
    ]
    lines = [header, *rows]
    return lines if len(header) <= MAX_COLUMNS else [list(line) for line in zip(*lines, strict=True)]


def _format_value(name: str, value: float | None) -> str:
    """Returns a metric's value with as many digits as the unit at the end of its name needs; empty for None."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    value = 0.0 if abs(value) < ROUNDING else value
    digits = next((number for unit, number in DIGITS.items() if name.endswith(unit)), None)
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def terminal_table(report: Report) -> str:
    """Returns the rows of a report as text in aligned columns; a table with many metrics is transposed.

    Below the rows it says which images were left out.
    """
    lines = [[one_line(cell) for cell in line] for line in _table(report.measurements)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        texts.append("  ".join(cells).rstrip())
    below = ["", *describe_left_out(report.left_out)] if report.left_out else []
    return "\n".join([texts[0], "-" * max(len(text) for text in texts), *texts[1:], *below])


def markdown_table(report: Report) -> str:
    """Returns the rows of a report as a Markdown table; a table with many metrics is transposed."""
    lines = [[_in_markdown(cell) for cell in line] for line in _table(report.measurements)]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|---" * len(lines[0]) + "|", *texts[1:]])


def markdown_section(report: Report) -> str:
    """Returns table, protocol, data and notes in Markdown: all that a reader needs to judge the numbers."""
    protocol = "; ".join(f"{name} {_setting(name, value)}" for name, value in report.protocol.items())
    data = "; ".join(
        f"{'' if split == 'data' else f'{split}: '}{facts['num_images']} images of {_in_markdown(facts['name'])}"
        for split, facts in report.data.items()
        if isinstance(facts, dict) and "num_images" in facts
    )
    parts = [markdown_table(report), f"Protocol: {protocol}.", f"Data: {data}."]
    parts += [f"{_in_markdown(line)}." for line in describe_left_out(report.left_out, short=True)]
    parts += [f"Computed by {', '.join(f'{k} {v}' for k, v in report.backends.items())}."] if report.backends else []
    parts += [f"Note: {_in_markdown(note)}." for note in report.notes]
    return "\n\n".join(parts)


def _setting(name: str, value: Any) -> str:
    """Returns the value of a protocol's field in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "all"
    if value is None or value == "":
        return "none"
    if name == "max_images" and value == 0:
        return "all"
    return _in_markdown(str(value))


def _in_markdown(text: str) -> str:
    """Returns text from elsewhere, such as a name, for a page: on one line, without marks of tables and HTML."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def scorecard_json(reports: Sequence[Report]) -> str:
    """Returns all fields of several reports as JSON, by task."""
    fields = {"format": FORMAT, "tasks": {report.task: report.as_dict() for report in reports}}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"


def scorecard_markdown(reports: Sequence[Report], heading: str = "# Scorecard") -> str:
    """Returns a Markdown page with a section per report; it links to the figures in the same folder."""
    level = "#" * (heading.index(" ") + 1)
    parts = [heading]
    for report in reports:
        images = "\n\n".join(f"![{name}]({name}.png)" for name in report.images)
        parts.append(
            "\n\n".join([f"{level} {TITLES[report.task]}", markdown_section(report), *([images] if images else [])])
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def check_targets(tasks: Sequence[str], output: Path | None, card: Path | None, overwrite: bool) -> None:
    """Raises the errors that writing the reports would raise, before any work starts.

    Args:
        tasks: Tasks whose reports will be written.
        output: Folder for the files, or None.
        card: Model card to update, or None.
        overwrite: Whether files may be replaced.

    Raises:
        OSError: if a file exists and must not be replaced, or the card cannot be read.
        ValueError: if marks in the card are damaged.
    """
    if output is not None:
        if output.exists() and not output.is_dir():
            raise FileExistsError(f"--output must be a folder, {output} is a file")
        existing = [output / f"{task}.json" for task in tasks if (output / f"{task}.json").exists()]
        if existing and not overwrite:
            raise FileExistsError(f"{existing[0]} exists already: pass --overwrite or another --output")
    if card is not None:
        if not card.is_file():
            raise FileNotFoundError(f"--update-card {card}: no such file")
        text = card.read_text(encoding="utf-8")
        for task in tasks:
            read_section(text, _section_name(task), card)


def write_report(report: Report, output: Path | None, card: Path | None) -> list[Path]:
    """Writes the figures and TASK.json to a folder, and the table into a model card, each file atomically.

    The JSON is written after the figures: if it exists, the report is complete.

    Returns:
        The files that were written.
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
        section = f"### {TITLES[report.task]}\n\n{markdown_section(report)}"
        text = write_section(card.read_text(encoding="utf-8"), _section_name(report.task), section, card)
        write_atomically(card, text.encode())
        written.append(card)
    return written


def write_scorecard(reports: Sequence[Report], output: Path) -> list[Path]:
    """Writes scorecard.md and scorecard.json to a folder that exists, and returns the two files."""
    texts = {"md": scorecard_markdown(reports), "json": scorecard_json(reports)}
    for suffix, text in texts.items():
        write_atomically(output / f"{SCORECARD}.{suffix}", text.encode())
    return [output / f"{SCORECARD}.{suffix}" for suffix in texts]


def _section_name(task: str) -> str:
    return f"stellar-hub eval {task}"
