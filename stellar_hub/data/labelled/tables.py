"""Tables that name images and their classes: text files, and tables of the `datasets` library."""

import csv
import os
from pathlib import Path
from typing import Any

from stellar_hub.data.labelled.labelled_images import LabelledImages, shortened
from stellar_hub.data.sources.table import ImageTable

USUAL = ("label", "labels", "fine_label", "class", "target")


def read_labelled_table(table: Any, name: str) -> LabelledImages:
    """The images of a `datasets.Dataset` with the labels beside them.

    Args:
        table: Has one column of images, and one of labels: declared as such, or named as is usual.
        name: What to call it.

    Raises:
        ValueError: if one of the two columns is missing or not clear, or a label is missing.
    """
    images = ImageTable(table, name)
    column = label_column(table, name)
    values = table[column]
    feature = table.features[column]
    classes = getattr(feature, "names", None)
    unlabelled = [row for row, value in enumerate(values) if value is None or (classes and value < 0)]
    if unlabelled:
        raise ValueError(f"{name} has {len(unlabelled)} rows without a label, the first is row {unlabelled[0]}")
    if classes:
        return LabelledImages(name, images, tuple(int(value) for value in values), tuple(classes))
    return LabelledImages.from_names(name, images, [str(value) for value in values])


def label_column(table: Any, name: str) -> str:
    """The column of a table that holds labels: the only one declared so, or one with a usual name.

    Raises:
        ValueError: if there is none, or there are several.
    """
    declared = [column for column, feature in table.features.items() if hasattr(feature, "names")]
    if len(declared) == 1:
        return declared[0]
    usual = [column for column in USUAL if column in (declared or table.column_names)]
    if not usual:
        raise ValueError(
            f"{name} has no clear column of labels; its columns are {', '.join(table.column_names)}: "
            f"name the one to use {USUAL[0]!r}"
        )
    return usual[0]


DELIMITERS = {".csv": ",", ".tsv": "\t"}
REQUIRED = ("path", "label")


def read_split_file(file: str | os.PathLike[str], split: str | None = None) -> LabelledImages:
    """Read a split file: a CSV or TSV table whose header names the columns "path", "label" and perhaps "split".

    Args:
        file: The table; paths in it are relative to its folder, or absolute.
        split: Which rows to take, by their "split"; None takes all.

    Raises:
        FileNotFoundError: if there is no such file, or an image is missing.
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
    images = [path.absolute().parent / row["path"] for row in rows]
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(f"{file} names images that do not exist: {shortened(missing)}")
    name = f"{file}:{split}" if split else str(file)
    return LabelledImages.from_names(name, images, [row["label"] for row in rows])


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
        raise ValueError(f"{path} is empty: it names no images")
    for number, row in enumerate(rows, start=2):
        if not all(row[column] for column in REQUIRED):
            raise ValueError(f"line {number} of {path} lacks a path or a label")
    return rows
