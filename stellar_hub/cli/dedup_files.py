"""What `stellar-hub dedup` writes: lists of images, the groups as a table and as JSON, and contact sheets."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stellar_hub.modeling.safe_text import one_line

if TYPE_CHECKING:
    from stellar_hub.cli.dedup_images import Show
    from stellar_hub.retrieval import DuplicateGroup
    from stellar_hub.store import FeatureStore
    from stellar_hub.visualization import SheetGroup

KEEP, DUPLICATES, TABLE, REPORT = FILES = ("keep.txt", "duplicates.txt", "groups.csv", "report.json")
SHEET = re.compile(r"sheet-\d{3}\.png")
GROUPS_PER_SHEET = 8
MAX_SHEETS = 25
MAX_IMAGES = 6  # of a group on a sheet
ROWS_AT_A_TIME = 4096
NOTE = (
    "The green frame is the image to keep. The others have their similarity to it. Sizes are height x width. The most "
    "doubtful groups come first."
)
COLUMNS = ("group", "status", "similarity", "row", "height", "width", "image")


class Written(NamedTuple):
    """What was written: the number of sheets, and of images that are in no list."""

    num_sheets: int
    left_out: int


def check_output(output: Path, overwrite: bool) -> None:
    """Checks that the output is a folder or can become one, and has no files of an earlier run unless told.

    Raises:
        FileExistsError: if it is a file, or has files that may not be replaced.
    """
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"--output {output} is a file; name a folder")
    earlier = _earlier(output)
    if earlier and not overwrite:
        raise FileExistsError(f"{earlier[0]} exists already: pass --overwrite or another --output")


def check_apart(output: Path, sources: Sequence[str]) -> None:
    """Checks that the output is no folder of images and lies in none, where its sheets would be new images.

    Args:
        output: Folder to write to.
        sources: Names of the images of a store; only those of folders matter.

    Raises:
        ValueError: if the output is or lies in a folder of images.
    """
    place = os.path.realpath(output)
    for name in filter(os.path.isdir, sources):
        folder = os.path.realpath(name)
        if os.path.commonpath([place, folder]) == folder:
            raise ValueError(f"--output {output} lies in the images {one_line(name)}: name a folder outside of them")


def _earlier(output: Path) -> list[Path]:
    """Returns the files of an earlier run."""
    names = sorted(os.listdir(output)) if output.is_dir() else []
    return [output / name for name in names if name in FILES or SHEET.fullmatch(name)]


def write_files(
    store: "FeatureStore",
    groups: "Sequence[DuplicateGroup]",
    threshold: float,
    output: Path,
    show: "Show | None",
) -> Written:
    """Writes all files in the place of those of an earlier run.

    Args:
        store: The store.
        groups: Groups of near-duplicates, the most doubtful first.
        threshold: Threshold that they were found with.
        output: Folder to write to; it is made if it does not exist.
        show: What gives the images of rows; None draws no sheets.
    """
    from stellar_hub.modeling.atomic_write import write_atomically

    output.mkdir(parents=True, exist_ok=True)
    for path in _earlier(output):
        path.unlink()
    removed = {row for group in groups for row in group.duplicates}
    lists, left_out = _lists(store, removed)
    for name, lines in lists.items():
        write_atomically(output / name, lines)
    table = [_lines(store, number, group) for number, group in enumerate(groups, 1)]
    write_atomically(output / TABLE, _as_csv(table))
    sheets = _write_sheets(store, table, output, show) if show is not None else []
    report = {
        "store": str(store.path),
        "model": store.manifest.model,
        "threshold": threshold,
        "num_images": int(store.ok.sum()),
        "num_errors": int((~store.ok).sum()),
        "num_duplicates": len(removed),
        "sheets": sheets,
        "groups": table,
    }
    write_atomically(output / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return Written(len(sheets), left_out)


def _lists(store: "FeatureStore", removed: set[int]) -> tuple[dict[str, bytes], int]:
    """Returns the content of both lists, and the number of images that no list can name."""
    from stellar_hub.features.rows import file_name

    kept: list[bytes] = []
    others: list[bytes] = []
    row = left_out = 0
    for batch in store.batches(ROWS_AT_A_TIME, outputs=()):
        for record in batch.records:
            name = file_name(record.image)
            if record.error is None and os.path.isabs(name) and not {"\n", "\r"} & set(name):
                (others if row in removed else kept).append(os.fsencode(name) + b"\n")
            elif record.error is None:  # in an archive or a table
                left_out += 1
            row += 1
    return {KEEP: b"".join(kept), DUPLICATES: b"".join(others)}, left_out


def _lines(store: "FeatureStore", number: int, group: "DuplicateGroup") -> list[dict[str, Any]]:
    """Returns a line of the table for each image of a group, the one that is kept first."""
    rows = [group.kept, *group.duplicates]
    similarities = [1.0, *group.similarities]
    lines = []
    for place, (record, similarity) in enumerate(zip(store.records(rows), similarities, strict=True)):
        size = record.original_size or (0, 0)
        values = (number, "duplicate" if place else "keep", round(similarity, 4), rows[place], *size, record.image)
        lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def _as_csv(table: Sequence[Sequence[dict[str, Any]]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for lines in table:
        writer.writerows(lines)
    return text.getvalue().encode()


def _write_sheets(
    store: "FeatureStore", table: Sequence[Sequence[dict[str, Any]]], output: Path, show: "Show"
) -> list[str]:
    """Draws the first groups on sheets; returns their names."""
    from stellar_hub.modeling.atomic_write import write_atomically
    from stellar_hub.progress import track
    from stellar_hub.visualization import draw_duplicates

    count = min(MAX_SHEETS, -(-len(table) // GROUPS_PER_SHEET))
    names = []
    for page in track(range(count), "drawing sheets", unit="sheet", enabled=count > 1):
        part = table[page * GROUPS_PER_SHEET : (page + 1) * GROUPS_PER_SHEET]
        title = f"{store.path.resolve().name}: near-duplicates, sheet {page + 1} of {count}"
        sheet = draw_duplicates([_shown(lines, show) for lines in part], title, NOTE)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        names.append(f"sheet-{page + 1:03d}.png")
        write_atomically(output / names[-1], buffer.getvalue())
    return names


def _shown(lines: Sequence[dict[str, Any]], show: "Show") -> "SheetGroup":
    """Returns the part of a group that a sheet shows: the image that is kept, and the least similar ones."""
    from stellar_hub.visualization import SheetGroup, SheetImage

    chosen = [lines[0], *lines[1:][-(MAX_IMAGES - 1) :]]
    more = len(lines) - len(chosen)
    heading = f"group {lines[0]['group']}: {len(lines)} images" + (
        f", {more} more similar ones not shown" if more else ""
    )
    images = []
    for line, image in zip(chosen, show([line["row"] for line in chosen]), strict=True):
        first = "keep" if line["status"] == "keep" else f"{line['similarity']:.3f}"
        images.append(
            SheetImage(image, os.path.basename(line["image"]), f"{first}, {line['height']} x {line['width']}")
        )
    return SheetGroup(heading, images)
