"""Train and test: checked, hashed, and a part held out."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stellar_hub.data.labelled import LabelledImages, open_labelled, read_segmentation_folder
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.splits import Splits, data_hash, digests, hold_out, prepare_segmentation, prepare_splits


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
    known = digests(train.images, run, "")
    shutil.copytree(image_folders[0], tmp_path / "moved")
    moved = open_labelled(tmp_path / "moved")
    assert data_hash(moved, digests(moved.images, run, "")) == data_hash(train, known)
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


def test_an_image_that_is_gone__is_named(train: LabelledImages, test: LabelledImages, run: RunSettings) -> None:
    gone = LabelledImages("train", [*train.images[:12], Path("gone.png")], train.labels, train.classes)  # type: ignore[index, misc]
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        prepare_splits(gone, test, run)


@pytest.fixture
def copied(mask_folders: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the folders, which a test may spoil."""
    for name, folder in zip(("train", "test"), mask_folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "train", tmp_path / "test"


def test_spoiled_masks__are_refused_before_any_work(copied: tuple[Path, Path], run: RunSettings) -> None:
    train, test = copied
    Image.new("L", (32, 31)).save(test / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"masks/3\.png .*31 x 32"):
        prepare_segmentation(read_segmentation_folder(train), read_segmentation_folder(test), run)
    Image.new("L", (32, 32), 7).save(test / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"masks/3\.png .*label 7"):
        prepare_segmentation(read_segmentation_folder(train), read_segmentation_folder(test), run)


def test_shared_images_and_other_classes__are_refused(copied: tuple[Path, Path], run: RunSettings) -> None:
    train, test = copied
    shutil.copy(train / "images" / "0.png", test / "images" / "0.png")
    learned, measured = read_segmentation_folder(train), read_segmentation_folder(test)
    with pytest.raises(ValueError, match="1 of 5"):
        prepare_segmentation(learned, measured, run)
    assert prepare_segmentation(learned, measured, run, allow_shared=True).num_shared == 1
    (test / "classes.txt").write_text("background\nred\ngreen\n")
    with pytest.raises(ValueError, match=r"blue.*green"):
        prepare_segmentation(learned, read_segmentation_folder(test), run)
