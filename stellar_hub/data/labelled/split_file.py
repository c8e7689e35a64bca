"""A table of text that names pictures and their classes, and perhaps the split each belongs to."""

import csv
import os
from pathlib import Path

from stellar_hub.data.labelled.labelled_pictures import LabelledPictures, shortened

DELIMITERS = {".csv": ",", ".tsv": "\t"}
REQUIRED = ("path", "label")


def read_split_file(file: str | os.PathLike[str], split: str | None = None) -> LabelledPictures:
    """Read a split file: a CSV or TSV table whose header names the columns "path", "label" and perhaps "split".

    Args:
        file: The table; paths in it are relative to its folder, or absolute.
        split: Which rows to take, by their "split"; None takes all.

    Raises:
        FileNotFoundError: if there is no such file, or a picture is missing.
        ValueError: if a column is missing, a row is cut short, or no row belongs to the split.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no such split file: {file}")
    rows = _read_rows(path)
    if split is not None:
        if "split" not in rows[0]:
            raise ValueError(f"{file} has no column 'split', so that there is no split {split!r}; add the column")
        splits = sorted({row["split"] for row in rows})
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise ValueError(f"{file} has no rows of the split {split!r}; its splits are {', '.join(splits)}")
    pictures = [path.absolute().parent / row["path"] for row in rows]
    missing = [str(picture) for picture in pictures if not picture.is_file()]
    if missing:
        raise FileNotFoundError(f"{file} names pictures that do not exist: {shortened(missing)}")
    name = f"{file}:{split}" if split else str(file)
    return LabelledPictures.from_names(name, pictures, [row["label"] for row in rows])


def _read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as text:
        reader = csv.DictReader(text, delimiter=DELIMITERS.get(path.suffix.lower(), ","))
        header = reader.fieldnames or []
        absent = [column for column in REQUIRED if column not in header]
        if absent:
            raise ValueError(
                f"{path} has no column {' and no column '.join(map(repr, absent))}; its first line must name the "
                f"columns path, label and perhaps split, got {', '.join(header) or 'nothing'}"
            )
        rows = [{column: (row[column] or "").strip() for column in header if column} for row in reader]
    if not rows:
        raise ValueError(f"{path} is empty: it names no pictures")
    for number, row in enumerate(rows, start=2):
        if not all(row[column] for column in REQUIRED):
            raise ValueError(f"line {number} of {path} lacks a path or a label")
    return rows
