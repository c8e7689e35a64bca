"""Train and test: checked, hashed, and a part held out."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.labelled import LabelledImages, hold_out, open_labelled
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.digests import digests_of
from stellar_hub.evaluation.splits import Splits, data_hash, prepare_splits


@given(labels=st.lists(st.integers(0, 4), min_size=6, max_size=60), share=st.floats(0.05, 0.9), seed=st.integers(0, 50))
def test_parts__are_disjoint_and_together_all(labels: list[int], share: float, seed: int) -> None:
    tensor = torch.tensor(labels)
    fitted, held = hold_out(tensor, share, seed)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        number = labels.count(label)
        count = int((tensor[held] == label).sum())
        assert count == (0 if number == 1 else min(number - 1, max(1, round(share * number))))


def test_parts__are_those_of_the_seed() -> None:
    labels = torch.arange(40) % 4
    assert torch.equal(hold_out(labels, 0.2, 1)[1], hold_out(labels, 0.2, 1)[1])
    assert not torch.equal(hold_out(labels, 0.2, 1)[1], hold_out(labels, 0.2, 2)[1])


def test_classes_of_one__stay_where_they_are_fitted_on() -> None:
    fitted, held = hold_out(torch.tensor([0, 1, 1, 2]), 0.5, 0)
    assert {0, 3} <= set(fitted.tolist())
    assert len(held) == 1
    with pytest.raises(ValueError, match="no class has two training images"):
        hold_out(torch.tensor([0, 1, 2]), 0.5, 0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share__out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\), got"):
        hold_out(torch.zeros(4, dtype=torch.long), share, 0)


def test_facts__say_names_counts_and_hashes(splits: Splits) -> None:
    facts = splits.facts()
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["train"]["num_images"] == 13
    assert facts["test"]["num_images"] == 7
    assert len(facts["train"]["sha256"]) == 64
    assert (facts["smallest_class"], facts["largest_class"], facts["num_shared_files"]) == (4, 5, 0)
    assert splits.notes() == []


def test_hash__follows_images_and_labels_and_not_the_place(
    train: LabelledImages, run: RunSettings, image_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    known, _ = digests_of(train.images, run, "")
    shutil.copytree(image_folders[0], tmp_path / "moved")
    moved = open_labelled(tmp_path / "moved")
    assert data_hash(moved, digests_of(moved.images, run, "")[0]) == data_hash(train, known)
    relabelled = LabelledImages(train.name, train.images, (1, *train.labels[1:]), train.classes)
    assert data_hash(relabelled, known) != data_hash(train, known)


def test_shared_files__are_found_whatever_they_are_called_and_refused_unless_asked(
    train: LabelledImages, run: RunSettings, image_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(image_folders[1], tmp_path / "test")
    shutil.copy(next((image_folders[0] / "red").iterdir()), tmp_path / "test" / "blue" / "another name.png")
    test = open_labelled(tmp_path / "test")
    with pytest.raises(ValueError, match=r"1 of 8 .*another name\.png.*--allow-shared"):
        prepare_splits(train, test, run)
    splits = prepare_splits(train, test, run, allow_shared=True)
    assert splits.facts()["num_shared_files"] == 1
    (note,) = splits.notes()
    assert "1 of 8" in note


def test_unseen_classes_and_a_single_class__are_refused(
    train: LabelledImages, test: LabelledImages, run: RunSettings
) -> None:
    without_red = LabelledImages("train", train.images[:9], train.labels[:9], train.classes[:2])  # type: ignore[index]
    with pytest.raises(ValueError, match="red"):
        prepare_splits(without_red, test, run)
    blue = LabelledImages("train", train.images[:5], train.labels[:5], train.classes)  # type: ignore[index]
    with pytest.raises(ValueError, match="at least 2 classes, it has 1"):
        prepare_splits(blue, test, run)


def test_classes_of_one_image__are_noted(train: LabelledImages, test: LabelledImages, run: RunSettings) -> None:
    labels = (*train.labels[:10], 0, 0, 2)
    few = LabelledImages("train", train.images, labels, train.classes)
    assert prepare_splits(few, test, run).train.counts()[2] == 2
    fewer = LabelledImages("train", train.images, (*labels[:9], 0, 0, 0, 2), train.classes)
    (note,) = prepare_splits(fewer, test, run).notes()
    assert note.endswith(": red")


def test_classes_without_images__are_noted(train: LabelledImages, test: LabelledImages, run: RunSettings) -> None:
    blue = LabelledImages("test", test.images[:3], test.labels[:3], test.classes)  # type: ignore[index]
    declared = LabelledImages("train", train.images, train.labels, (*train.classes, "white"))
    assert prepare_splits(declared, blue, run).notes() == [
        "classes with no image in train: white",
        "classes with no image in test: green, red",
    ]


def test_an_image_that_is_gone__is_left_out(train: LabelledImages, test: LabelledImages, run: RunSettings) -> None:
    gone = LabelledImages("train", [*train.images[:12], Path("gone.png")], train.labels, train.classes)  # type: ignore[index, misc]
    splits = prepare_splits(gone, test, run)
    assert len(splits.train) == 12
    assert [(each.part, each.image) for each in splits.left_out] == [("train", "gone.png")]
    rest = LabelledImages("train", train.images[:12], train.labels[:12], train.classes)  # type: ignore[index]
    assert splits.facts() == prepare_splits(rest, test, run).facts() | {"train": splits.facts()["train"]}
    assert splits.train_hash == prepare_splits(rest, test, run).train_hash


def test_classes_of_which_no_image_is_left__are_gone_or_refused(
    train: LabelledImages, test: LabelledImages, run: RunSettings
) -> None:
    images = [*train.images[:12], Path("gone.png")]  # type: ignore[index]
    labels = (*(min(label, 1) for label in train.labels[:12]), 2)
    alone = LabelledImages("train", images, labels, train.classes)  # type: ignore[arg-type]
    without_red = LabelledImages("test", test.images[:5], test.labels[:5], test.classes)  # type: ignore[index]
    assert prepare_splits(alone, without_red, run).train.classes == ("blue", "green")
    with pytest.raises(ValueError, match="classes that train does not have: red"):
        prepare_splits(alone, test, run)
    none = LabelledImages("test", [Path("a.png"), Path("b.png")], (0, 1), test.classes)
    with pytest.raises(ValueError, match=r"none of the 2 images of test.*a\.png"):
        prepare_splits(train, none, run)


def test_shared_files_that_are_no_images__are_left_out_of_both(
    run: RunSettings, image_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for name, folder in zip(("train", "test"), image_folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "red" / "empty.png").touch()
    splits = prepare_splits(open_labelled(tmp_path / "train"), open_labelled(tmp_path / "test"), run)
    assert [each.part for each in splits.left_out] == ["train", "test"]
    assert (len(splits.train), len(splits.test), splits.num_shared) == (13, 7, 0)
