"""Tables with pictures and labels."""

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from stellar_hub.data.labelled.labelled_table import read_labelled_table


def table(class_folders: Path, labels: list[Any], feature: Any, column: str = "label") -> Dataset:
    """Three pictures with labels beside them."""
    pictures = sorted(str(path) for path in class_folders.rglob("*.??g"))
    return Dataset.from_dict(
        {"image": pictures, column: labels}, features=Features({"image": Image(), column: feature})
    )


def test_declared_labels__keep_their_names_and_numbers(class_folders: Path) -> None:
    made = table(class_folders, [1, 0, 2], ClassLabel(names=["dog", "cat", "ant"]), "animal")
    labelled = read_labelled_table(made, "mine")
    assert labelled.classes == ("dog", "cat", "ant")
    assert labelled.labels == (1, 0, 2)
    assert len(labelled.pictures) == 3


def test_usual_names__are_found(class_folders: Path) -> None:
    labelled = read_labelled_table(table(class_folders, ["b", "a", "b"], Value("string")), "mine")
    assert labelled.classes == ("a", "b")
    assert labelled.labels == (1, 0, 1)


def test_what_has_no_clear_labels__is_refused(class_folders: Path) -> None:
    with pytest.raises(ValueError, match="mine has no clear column of labels; its columns are image, animal"):
        read_labelled_table(table(class_folders, ["b", "a", "b"], Value("string"), "animal"), "mine")
    with pytest.raises(ValueError, match="mine has 1 rows without a label, the first is row 1"):
        read_labelled_table(table(class_folders, ["b", None, "b"], Value("string")), "mine")
    with pytest.raises(ValueError, match="mine has 2 rows without a label, the first is row 0"):
        read_labelled_table(table(class_folders, [-1, -1, 0], ClassLabel(names=["dog"])), "mine")
