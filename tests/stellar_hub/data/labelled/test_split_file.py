"""Split files."""

from pathlib import Path

import pytest

from stellar_hub.data.labelled.split_file import read_split_file


@pytest.fixture
def split_file(class_folders: Path) -> Path:
    """Beside the class folders, naming their pictures in two splits."""
    path = class_folders.parent / "split.csv"
    path.write_text(
        "label,path,split\ncat,animals/cats/2.png,train\ndog,animals/dogs/1.png,train\n"
        '"cat",animals/cats/old/3.jpg,test\n'
    )
    return path


def test_rows__are_those_of_the_split(split_file: Path, class_folders: Path) -> None:
    train = read_split_file(split_file, "train")
    assert train.classes == ("cat", "dog")
    assert train.labels == (0, 1)
    assert train.pictures[1] == class_folders / "dogs" / "1.png"
    assert len(read_split_file(split_file, "test")) == 1
    assert len(read_split_file(split_file)) == 3
    tabbed = split_file.with_suffix(".tsv")
    tabbed.write_text("path\tlabel\nanimals/dogs/1.png\ta dog, asleep\n")
    assert read_split_file(tabbed).classes == ("a dog, asleep",)


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("", None, "has no column 'path' and no column 'label'; .* got nothing"),
        ("path,class\na.png,cat\n", None, "has no column 'label'; .* got path, class"),
        ("path,label\n", None, "is empty: it names no pictures"),
        ("path,label\nanimals/dogs/1.png\n", None, "line 2 of .* lacks a path or a label"),
        ("path,label\nanimals/dogs/1.png,dog\n", "test", "has no column 'split'"),
        (
            "path,label,split\nanimals/dogs/1.png,dog,train\n",
            "test",
            "no rows of the split 'test'; its splits are train",
        ),
    ],
)
def test_what_is_no_split_file__is_refused(split_file: Path, text: str, split: str | None, message: str) -> None:
    split_file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split_file(split_file, split)


def test_missing_files__are_named(split_file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such split file"):
        read_split_file(split_file.with_name("other.csv"))
    split_file.write_text("path,label\ngone.png,cat\n")
    with pytest.raises(FileNotFoundError, match=r"names pictures that do not exist: .*gone\.png"):
        read_split_file(split_file)
