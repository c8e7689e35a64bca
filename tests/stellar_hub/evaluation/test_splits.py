"""Train and test together."""

import shutil
from pathlib import Path

import pytest

from stellar_hub.data.labelled import LabelledPictures, open_labelled
from stellar_hub.evaluation.features import RunSettings
from stellar_hub.evaluation.splits import Splits, data_hash, digests, prepare_splits


def test_facts__say_names_counts_and_hashes(splits: Splits) -> None:
    facts = splits.facts()
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["train"]["num_pictures"] == 13
    assert facts["test"]["num_pictures"] == 7
    assert len(facts["train"]["sha256"]) == 64
    assert (facts["smallest_class"], facts["largest_class"], facts["num_shared_files"]) == (4, 5, 0)
    assert splits.notes() == []


def test_hash__follows_pictures_and_labels_and_not_the_place(
    train: LabelledPictures, run: RunSettings, picture_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    known = digests(train.pictures, run, "")
    shutil.copytree(picture_folders[0], tmp_path / "moved")
    moved = open_labelled(tmp_path / "moved")
    assert data_hash(moved, digests(moved.pictures, run, "")) == data_hash(train, known)
    relabelled = LabelledPictures(train.name, train.pictures, (1, *train.labels[1:]), train.classes)
    assert data_hash(relabelled, known) != data_hash(train, known)


def test_shared_files__are_found_whatever_they_are_called_and_refused_unless_asked(
    train: LabelledPictures, run: RunSettings, picture_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(picture_folders[1], tmp_path / "test")
    shutil.copy(next((picture_folders[0] / "red").iterdir()), tmp_path / "test" / "blue" / "another name.png")
    test = open_labelled(tmp_path / "test")
    with pytest.raises(
        ValueError, match=r"1 of 8 pictures of .*test are in .*train too, .*another name\.png: take them"
    ):
        prepare_splits(train, test, run)
    splits = prepare_splits(train, test, run, allow_shared=True)
    assert splits.facts()["num_shared_files"] == 1
    assert splits.notes() == ["1 of 8 test pictures are in train too: the numbers flatter"]


def test_unseen_classes_and_a_single_class__are_refused(
    train: LabelledPictures, test: LabelledPictures, run: RunSettings
) -> None:
    without_red = LabelledPictures("train", train.pictures[:9], train.labels[:9], train.classes[:2])  # type: ignore[index]
    with pytest.raises(ValueError, match="holds classes that train does not: red"):
        prepare_splits(without_red, test, run)
    blue = LabelledPictures("train", train.pictures[:5], train.labels[:5], train.classes)  # type: ignore[index]
    with pytest.raises(ValueError, match="train holds pictures of 1 class: at least two are needed"):
        prepare_splits(blue, test, run)


def test_classes_of_one_picture__are_noted(train: LabelledPictures, test: LabelledPictures, run: RunSettings) -> None:
    labels = (*train.labels[:10], 0, 0, 2)
    few = LabelledPictures("train", train.pictures, labels, train.classes)
    assert prepare_splits(few, test, run).train.counts()[2] == 2
    fewer = LabelledPictures("train", train.pictures, (*labels[:9], 0, 0, 0, 2), train.classes)
    assert prepare_splits(fewer, test, run).notes() == ["classes with one picture in train: red"]


def test_a_picture_that_is_gone__is_named(train: LabelledPictures, test: LabelledPictures, run: RunSettings) -> None:
    gone = LabelledPictures("train", [*train.pictures[:12], Path("gone.png")], train.labels, train.classes)  # type: ignore[index, misc]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        prepare_splits(gone, test, run)
