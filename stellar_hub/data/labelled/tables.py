"""Tables that name images and their classes: tables of the `datasets` library, and split files."""

import csv
import os
from pathlib import Path
from typing import Any

from stellar_hub.data.labelled.labelled_images import LabelledImages, shortened
from stellar_hub.data.sources.table import ImageTable

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")  # usual names, the first found is used
DELIMITERS = {".csv": ",", ".tsv": "\t"}
REQUIRED_COLUMNS = ("path", "label")


def read_labelled_table(table: Any, name: str) -> LabelledImages:
    """Reads the images and labels of a `datasets.Dataset`.

    Args:
        table: Table with one column of images and one column of labels; `label_column` says which.
        name: Name for messages and reports.

    Raises:
        ValueError: if one of the two columns is missing or ambiguous, or a label is missing.
    """
    images = ImageTable(table, name)
    column = label_column(table, name)
    values = table[column]
    classes = getattr(table.features[column], "names", None)
    unlabelled = [row for row, value in enumerate(values) if value is None or (classes and value < 0)]
    if unlabelled:
        raise ValueError(f"{name} has {len(unlabelled)} rows without a label, the first is row {unlabelled[0]}")
    if classes:
        return LabelledImages(name, images, tuple(int(value) for value in values), tuple(classes))
    return LabelledImages.from_names(name, images, [str(value) for value in values])


def label_column(table: Any, name: str) -> str:
    """Returns the column of labels: the only one that is declared as labels, or one with a usual name.

    Raises:
        ValueError: if the table does not have the column.
    """
    declared = [column for column, feature in table.features.items() if hasattr(feature, "names")]
    if len(declared) == 1:
        return declared[0]
    usual = [column for column in LABEL_COLUMNS if column in (declared or table.column_names)]
    if not usual:
        raise ValueError(
            f"{name} has no clear column of labels; its columns are {', '.join(table.column_names)}; "
            f"rename the one to use to {LABEL_COLUMNS[0]!r}"
        )
    return usual[0]


def read_split_file(file: str | os.PathLike[str], split: str | None = None) -> LabelledImages:
    """Reads a split file: a CSV or TSV table with the columns "path", "label" and, optionally, "split".

    Args:
        file: Path of the table. Paths in it are absolute or relative to its folder.
        split: Value of the column "split" of the rows to read. None: all rows.

    Raises:
        FileNotFoundError: if the table or an image does not exist.
        ValueError: if a column or a value is missing, or no row belongs to the split.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no such split file: {file}")
    rows = _read_rows(path)
    if split is not None:
        if "split" not in rows[0]:
            raise ValueError(f"{file} has no column 'split', so it has no split {split!r}; add the column")
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
    """Reads the rows of a split file and checks that each has a path and a label."""
    with open(path, newline="", encoding="utf-8") as text:
        reader = csv.DictReader(text, delimiter=DELIMITERS.get(path.suffix.lower(), ","))
        header = reader.fieldnames or []
        absent = [column for column in REQUIRED_COLUMNS if column not in header]
        if absent:
            raise ValueError(
                f"{path} has no column {' and no column '.join(map(repr, absent))}; its first line must name the "
                f"columns path, label and, optionally, split, got {', '.join(header) or 'nothing'}"
            )
        rows = [{column: (row[column] or "").strip() for column in header if column} for row in reader]
    if not rows:
        raise ValueError(f"{path} names no images; write one row per image")
    for number, row in enumerate(rows, start=2):
        if not all(row[column] for column in REQUIRED_COLUMNS):
            raise ValueError(f"line {number} of {path} has no path or no label")
    return rows
