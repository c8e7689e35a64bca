"""Pictures and labels in two columns of a table, through the `datasets` library."""

from typing import Any

from stellar_hub.data.labelled.labelled_pictures import LabelledPictures
from stellar_hub.data.sources.table import PictureTable

USUAL = ("label", "labels", "fine_label", "class", "target")


def read_labelled_table(table: Any, name: str) -> LabelledPictures:
    """The pictures of a `datasets.Dataset` with the labels beside them.

    Args:
        table: Has one column of pictures, and one of labels: declared as such, or named as is usual.
        name: What to call it.

    Raises:
        ValueError: if one of the two columns is missing or not clear, or a label is missing.
    """
    pictures = PictureTable(table, name)
    column = label_column(table, name)
    values = table[column]
    feature = table.features[column]
    classes = getattr(feature, "names", None)
    unlabelled = [row for row, value in enumerate(values) if value is None or (classes and value < 0)]
    if unlabelled:
        raise ValueError(f"{name} has {len(unlabelled)} rows without a label, the first is row {unlabelled[0]}")
    if classes:
        return LabelledPictures(name, pictures, tuple(int(value) for value in values), tuple(classes))
    return LabelledPictures.from_names(name, pictures, [str(value) for value in values])


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
