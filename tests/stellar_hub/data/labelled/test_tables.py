"""Tables with images and labels."""

import os
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from stellar_hub.data.labelled.tables import read_labelled_table, read_split_file
from stellar_hub.data.sources import read_image


def table(class_folders: Path, labels: list[Any], feature: Any, column: str = "label") -> Dataset:
    """Three images with labels beside them."""
    images = sorted(str(path) for path in class_folders.rglob("*.??g"))
    return Dataset.from_dict({"image": images, column: labels}, features=Features({"image": Image(), column: feature}))


def test_declared_labels__keep_their_names_and_numbers(class_folders: Path) -> None:
    made = table(class_folders, [1, 0, 2], ClassLabel(names=["dog", "cat", "ant"]), "animal")
    labelled = read_labelled_table(made, "mine")
    assert labelled.classes == ("dog", "cat", "ant")
    assert labelled.labels == (1, 0, 2)
    assert len(labelled.images) == 3


def test_usual_names__are_found(class_folders: Path) -> None:
    labelled = read_labelled_table(table(class_folders, ["b", "a", "b"], Value("string")), "mine")
    assert labelled.classes == ("a", "b")
    assert labelled.labels == (1, 0, 1)


def test_what_has_no_clear_labels__is_refused(class_folders: Path) -> None:
    with pytest.raises(ValueError, match=r"mine .* image, animal"):
        read_labelled_table(table(class_folders, ["b", "a", "b"], Value("string"), "animal"), "mine")
    with pytest.raises(ValueError, match=r"mine has 1 .* row 1"):
        read_labelled_table(table(class_folders, ["b", None, "b"], Value("string")), "mine")
    with pytest.raises(ValueError, match=r"mine has 2 .* row 0"):
        read_labelled_table(table(class_folders, [-1, -1, 0], ClassLabel(names=["dog"])), "mine")


@pytest.fixture
def split_file(class_folders: Path) -> Path:
    """Beside the class folders, naming their images in two splits."""
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
    assert train.images[1] == class_folders / "dogs" / "1.png"
    assert len(read_split_file(split_file, "test")) == 1
    assert len(read_split_file(split_file)) == 3
    tabbed = split_file.with_suffix(".tsv")
    tabbed.write_text("path\tlabel\nanimals/dogs/1.png\ta dog, asleep\n")
    assert read_split_file(tabbed).classes == ("a dog, asleep",)


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("", None, "'path'.*'label'"),
        ("path,class\na.png,cat\n", None, "'label'.* got path, class"),
        ("path,label\n", None, "no images"),
        ("path,label\nanimals/dogs/1.png\n", None, "line 2 "),
        ("path,label\nanimals/dogs/1.png,dog\n", "test", "column 'split'"),
        (
            "path,label,split\nanimals/dogs/1.png,dog,train\n",
            "test",
            "'test'; .* train",
        ),
    ],
)
def test_other_files__are_refused(split_file: Path, text: str, split: str | None, message: str) -> None:
    split_file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split_file(split_file, split)


def test_missing_files__are_named(split_file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        read_split_file(split_file.with_name("other.csv"))
    split_file.write_text("path,label\ngone.png,cat\n")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_split_file(split_file)


def test_missing_files__cost_their_rows_alone(split_file: Path) -> None:
    split_file.write_text("path,label\ngone.png,cat\nanimals/dogs/1.png,dog\n")
    labelled = read_split_file(split_file)
    assert labelled.labels == (0, 1)
    assert "1 image of" in labelled.notes[0]
    assert "gone.png" in labelled.notes[0]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(labelled.images[0])


def test_byte_order_mark__is_skipped(split_file: Path) -> None:
    split_file.write_bytes(b"\xef\xbb\xbfpath, label\r\n animals/dogs/1.png,dog\r\n\r\n")
    assert read_split_file(split_file).classes == ("dog",)
    split_file.write_bytes("path,label\n".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16"):
        read_split_file(split_file)


def test_names__that_are_not_unicode_lead_to_their_file(split_file: Path) -> None:
    name = os.path.join(os.fsencode(split_file.parent), b"\xe9.png")
    with open(name, "wb") as file:
        file.write(b"x")
    split_file.write_bytes(b"path,label\n\xe9.png,dog\n")
    assert os.fsencode(read_split_file(split_file).images[0]) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n" + "a" * 200_000 + ",dog\n", "line 2 "),
        ("path,label" + ",x" * 600_000 + "\n", "a row of "),
        ('path,label\n"' + "a\n" * 100_000, "line "),
        ("path,label\n" + '"a\nb",dog,' * 300_000, "a row of "),
    ],
)
def test_rows__have_an_end(split_file: Path, text: str, message: str) -> None:
    split_file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_split_file(split_file)
    assert "split.csv" in str(caught.value)


def test_split_file__beyond_the_limit_is_refused(split_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_TEXT_BYTES", "10")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_TEXT_BYTES"):
        read_split_file(split_file)


def test_split_file__that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="pipe"):
        read_split_file(tmp_path / "a.csv")
