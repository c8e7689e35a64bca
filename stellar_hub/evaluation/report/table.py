"""A report as a table: for the terminal, and in Markdown."""

import math
from collections.abc import Sequence

from stellar_hub.evaluation.report.report import Measurement, Report

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
        f"{split}: {facts['num_pictures']} pictures of {facts['name']}"
        for split, facts in report.data.items()
        if isinstance(facts, dict) and "num_pictures" in facts
    )
    parts = [markdown_table(report), f"Protocol: {protocol}.", f"Data: {data}."]
    parts += [f"Computed by {', '.join(f'{k} {v}' for k, v in report.backends.items())}."] if report.backends else []
    parts += [f"Note: {note}." for note in report.notes]
    return "\n\n".join(parts)
