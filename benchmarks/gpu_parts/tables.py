"""The tables of a run: rows as they come, bars at the end, and the section of a page of docs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_parts.bars import BARS, Rows

SECTION = "benchmarks/gpu.py"
COMMAND = """python benchmarks/gpu.py --json gpu.json
python benchmarks/gpu.py --update-docs docs/results/gpu.md --json gpu.json"""
HEADER = (
    "| what | ms | per second | µs per token | of the matrix rate | difference | note |\n|---|---|---|---|---|---|---|"
)
FORMATS = {"ms": ".2f", "per_second": ".0f", "us_per_token": ".3f", "share": ".2f", "difference": ".1e"}


def line_of(row: dict[str, Any]) -> str:
    """Returns one row as text for a terminal."""
    cells = [f"{key} {row[key]:{spec}}" for key, spec in FORMATS.items() if row.get(key) is not None]
    return f"{row['group']} | {row['name']}: {', '.join([*cells, *notes_of(row)])}"


def notes_of(row: dict[str, Any]) -> list[str]:
    """Returns what a row says in words."""
    found = [row["note"]] if row.get("note") else []
    if row.get("cosine") is not None:
        found.append(f"cosine of S {row['cosine']:.5f}, same token in L {row['same_token']:.1%}")
    if row.get("same") is False:
        found.append("DIFFERS")
    for key, text in (("tflops", "{:.0f} TFLOP/s"), ("gb_per_second", "{:.0f} GB/s"), ("peak_gb", "peak {:.1f} GB")):
        if row.get(key) is not None:
            found.append(text.format(row[key]))
    return found


def merged(rows: Rows) -> list[dict[str, Any]]:
    """Returns the rows with the last one of each name, in the order of their first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["group"], row["name"]
        found[key] = row if "ms" in row or "ms" not in found.get(key, {}) else {**found[key], **row}
    return list(found.values())


def measured_table(rows: Rows) -> str:
    """Returns all rows as a table in Markdown, by group."""
    lines = [HEADER]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines.append(f"| **{group}** | | | | | | |")
        for row in (row for row in rows if row["group"] == group):
            cells = ["" if row.get(key) is None else f"{row[key]:{spec}}" for key, spec in FORMATS.items()]
            note = "; ".join(notes_of(row)).replace("|", "/").replace("\n", " ")
            lines.append(f"| {row['name']} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines)


def bars_table(rows: Rows) -> str:
    """Returns the bars as a table in Markdown, with what was measured and whether it is enough."""
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    for bar in BARS:
        value = bar.value(rows)
        shown = "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
        lines.append(
            f"| {bar.what} | {shown} | {'≥' if bar.at_least else '≤'} {bar.limit:g} | {words[bar.met(rows)]} |"
        )
    return "\n".join(lines)


def reports(rows: Rows) -> str:
    """Returns what `optimize_for_inference` and `train` reported, for each measurement."""
    found = {f"{row['group'].split(', batch')[0]}, {row['name']}": row["report"] for row in rows if row.get("report")}
    return "\n\n".join(f"{title}:\n{text}" for title, text in found.items())


def environment_line(environment: dict[str, Any]) -> str:
    """Returns the machine, the versions and the day in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return f"{environment['device']}, {environment['cores']} CPU cores, {versions}, {environment['date']}"


def section(path: Path | None) -> str:
    """Returns the section of the docs that a JSON file fills, or without a file the empty one.

    Raises:
        ValueError: if the file is not of a whole run on a GPU.
    """
    if path is None:
        return (
            "**No number of this section is filled in yet: it was written on a machine without a GPU.** These "
            f"commands\nfill it; the first one ends within six minutes:\n\n```sh\n{COMMAND}\n```\n\n{bars_table([])}"
        )
    found = json.loads(path.read_text())
    if found["environment"]["smoke"] or found["environment"]["device_type"] != "cuda":
        raise ValueError(f"{path} is of a run with --smoke or without a GPU: {COMMAND.splitlines()[0]}")
    rows: Sequence[dict[str, Any]] = found["rows"]
    problems = [f"- {name}: {part['problem']}" for name, part in found["parts"].items() if part["problem"]]
    return "\n\n".join(
        [
            "`python benchmarks/gpu.py --json FILE` measured this on:\n"
            f"{environment_line(found['environment'])}.\nThe second of these commands writes this section.",
            f"```sh\n{COMMAND}\n```",
            bars_table(rows),
            *(["These parts did not end:\n\n" + "\n".join(problems)] if problems else []),
            "Rows of one group took turns, and times are medians. `difference` is relative: to the same model as it "
            "is, or to\nthe authors' numbers.",
            measured_table(rows),
            f"What was chosen:\n\n```text\n{reports(rows)}\n```",
        ]
    )
