"""Tables that name images and their classes: tables of the `datasets` library, and split files."""

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from stellar_hub.data.labelled.labelled_images import LabelledImages, shortened
from stellar_hub.data.sources.files import counted
from stellar_hub.data.sources.image_list import UTF_16_MARKS
from stellar_hub.data.sources.table import ImageTable
from stellar_hub.data.sources.table_files import TablePart, reading_table
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_paths import regular_file
from stellar_hub.modeling.safe_text import one_line

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")  # usual names, the first found is used
DELIMITERS = {".csv": ",", ".tsv": "\t"}
REQUIRED_COLUMNS = ("path", "label")
MAX_ROW = 2**20  # characters


def read_labelled_table(
    table: Any,
    name: str,
    roots: Sequence[str | os.PathLike[str]] = (),
    parts: Sequence[TablePart] = (),
) -> LabelledImages:
    """Reads the images and labels of a `datasets.Dataset`.

    Args:
        table: Table with one column of images and one column of labels; `label_column` says which.
        name: Name for messages and reports.
        roots: Folders below which the table may name files; see `ImageTable`.
        parts: Numbers of rows and stamps of the files of the table.

    Raises:
        ValueError: if one of the two columns is missing, ambiguous or damaged, or a label is missing.
    """
    images = ImageTable(table, name, roots=roots, parts=parts)
    column = label_column(table, name)
    with reading_table(name):
        table.data.column(column).validate(full=True)
        values = list(table[column])
    classes = getattr(table.features[column], "names", None)
    unlabelled = [row for row, value in enumerate(values) if value is None or (classes and value < 0)]
    if unlabelled:
        raise ValueError(
            f"{one_line(name)} has {len(unlabelled)} rows without a label, the first is row {unlabelled[0]}"
        )
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
            f"{one_line(name)} has no clear column of labels; its columns are "
            f"{one_line(', '.join(table.column_names))}; rename the one to use to {LABEL_COLUMNS[0]!r}"
        )
    return usual[0]


def read_split_file(file: str | os.PathLike[str], split: str | None = None) -> LabelledImages:
    """Reads a split file: a CSV or TSV table with the columns "path", "label" and, optionally, "split".

    Args:
        file: Path of the table. Paths in it are absolute or relative to its folder.
        split: Value of the column "split" of the rows to read. None: all rows.

    Rows whose image does not exist stay: reading such an image raises the error. They are counted in the notes.

    Raises:
        FileNotFoundError: if the table does not exist, or none of its images.
        ValueError: if a column or a value is missing, no row belongs to the split, or it is not a table in UTF-8.
    """
    path = Path(file)
    if not path.exists():
        raise FileNotFoundError(f"no such split file: {one_line(file)}")
    rows = _read_rows(path, one_line(file))
    if split is not None:
        rows = _rows_of_split(rows, split, one_line(file))
    images = [path.absolute().parent / row.path for row in rows]
    missing = [str(image) for image in images if not image.is_file()]
    if len(missing) == len(images):
        raise FileNotFoundError(f"{one_line(file)} names images that do not exist: {shortened(missing)}")
    notes = [f"{counted(len(missing), 'image', 'images')} of {one_line(file)} cannot be found: {shortened(missing)}"]
    name = f"{file}:{split}" if split else str(file)
    return LabelledImages.from_names(name, images, [row.label for row in rows], notes if missing else ())


class _Row(NamedTuple):
    path: str
    label: str
    split: str | None


def _rows_of_split(rows: list[_Row], split: str, name: str) -> list[_Row]:
    """Returns the rows of a split."""
    if rows[0].split is None:
        raise ValueError(f"{name} has no column 'split', so it has no split {split!r}; add the column")
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        splits = sorted({str(row.split) for row in rows})
        raise ValueError(f"{name} has no rows of the split {one_line(repr(split))}; its splits are {shortened(splits)}")
    return chosen


def _read_rows(path: Path, name: str) -> list[_Row]:
    """Reads the rows of a split file and checks that each has a path and a label.

    Names that are not UTF-8 are kept as the file system has them. A byte order mark is skipped.
    """
    check_limit("text_bytes", regular_file(path).stat().st_size, name)
    with open(path, "rb") as file:
        if file.read(2) in UTF_16_MARKS:
            raise ValueError(f"{name} is UTF-16 text; save it as UTF-8")
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
        lines = _BoundedLines(text, name)
        reader = csv.reader(lines, delimiter=DELIMITERS.get(path.suffix.lower(), ","))
        try:
            return _rows_of(reader, lines, name)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {name} cannot be read: {error}") from error


def _rows_of(reader: Any, lines: "_BoundedLines", name: str) -> list[_Row]:
    header = [column.strip() for column in next(reader, [])]
    places = [header.index(column) if column in header else None for column in (*REQUIRED_COLUMNS, "split")]
    absent = [column for column, place in zip(REQUIRED_COLUMNS, places, strict=False) if place is None]
    if absent:
        raise ValueError(
            f"{name} has no column {' and no column '.join(map(repr, absent))}; its first line must name the "
            f"columns path, label and, optionally, split, got {one_line(', '.join(header)) or 'nothing'}"
        )
    rows = []
    for cells in reader:
        lines.next_row()
        if not cells:
            continue
        path, label, split = (
            cells[place].strip() if place is not None and place < len(cells) else "" for place in places
        )
        if not path or not label:
            raise ValueError(f"line {reader.line_num} of {name} has no path or no label")
        rows.append(_Row(path, sys.intern(label), sys.intern(split) if places[-1] is not None else None))
    if not rows:
        raise ValueError(f"{name} names no images; write one row per image")
    return rows


class _BoundedLines:
    """The lines of a text file for `csv`, with an end to the length of one row, which may go over several lines."""

    def __init__(self, file: TextIO, name: str):
        self.file = file
        self.name = name
        self.length = 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(MAX_ROW + 1):
            self.length += len(line)
            if self.length > MAX_ROW:
                raise ValueError(f"a row of {self.name} is longer than {MAX_ROW:,} characters; write one row per image")
            yield line

    def next_row(self) -> None:
        """Starts to count anew."""
        self.length = 0
