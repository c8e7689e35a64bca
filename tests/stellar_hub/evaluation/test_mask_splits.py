"""Train and test images with masks: checked, hashed, and what cannot be used left out."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.labelled import read_segmentation_folder
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.mask_splits import SegmentationSplits, prepare_segmentation


@pytest.fixture
def copied(mask_folders: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the folders, which a test may spoil."""
    for name, folder in zip(("train", "test"), mask_folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "train", tmp_path / "test"


def prepare(folders: tuple[Path, Path], run: RunSettings, allow_shared: bool = False) -> SegmentationSplits:
    """Opens the folders as the command does."""
    train = read_segmentation_folder(folders[0])
    return prepare_segmentation(train, read_segmentation_folder(folders[1], train.classes), run, allow_shared)


def renumber(folder: Path, numbers: dict[int, int]) -> None:
    """Replaces numbers in all masks, and removes the names of classes."""
    (folder / "classes.txt").unlink(missing_ok=True)
    for path in (folder / "masks").iterdir():
        values = np.array(Image.open(path))
        Image.fromarray(np.vectorize(lambda number: numbers.get(number, number))(values).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda test: Image.new("L", (32, 31)).save(test / "masks" / "3.png"), "31 x 32"),
        (lambda test: (test / "masks" / "3.png").write_bytes(b"x"), "cannot be read"),
        (lambda test: (test / "masks" / "3.png").unlink(), "has no mask"),
        (lambda test: (test / "images" / "3.png").write_bytes(b"x"), "cannot be read"),
        (lambda test: Image.new("RGB", (32, 32)).save(test / "masks" / "3.png"), "RGB"),
    ],
)
def test_what_cannot_be_used__is_left_out_with_its_mask(
    copied: tuple[Path, Path], run: RunSettings, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(copied[1])
    splits = prepare(copied, run)
    (left_out,) = splits.left_out
    assert (left_out.part, left_out.image) == ("test", str(copied[1] / "images" / "3.png"))
    assert reason in left_out.reason
    for kind in ("images", "masks"):
        (copied[1] / kind / "3.png").unlink(missing_ok=True)
    assert splits.facts() == prepare(copied, run).facts()


def test_oversized_masks__are_not_decoded(
    copied: tuple[Path, Path], run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 40)).save(copied[1] / "masks" / "3.png")
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", str(32 * 32))
    (left_out,) = prepare(copied, run).left_out
    assert "STELLAR_HUB_MAX_IMAGE_PIXELS" in left_out.reason


def test_folders_of_which_nothing_can_be_used__are_refused(copied: tuple[Path, Path], run: RunSettings) -> None:
    for path in (copied[1] / "masks").iterdir():
        Image.new("L", (8, 8)).save(path)
    with pytest.raises(ValueError, match=r"none of the 5 images of .*test"):
        prepare(copied, run)


def test_unknown_labels__end_the_run(copied: tuple[Path, Path], run: RunSettings) -> None:
    Image.new("L", (32, 32), 7).save(copied[1] / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"masks/3\.png .*label 7"):
        prepare(copied, run)


def test_shared_images_and_other_classes__are_refused(copied: tuple[Path, Path], run: RunSettings) -> None:
    train, test = copied
    shutil.copy(train / "images" / "0.png", test / "images" / "0.png")
    with pytest.raises(ValueError, match="1 of 5"):
        prepare(copied, run)
    assert prepare(copied, run, allow_shared=True).num_shared == 1
    (test / "classes.txt").write_text("background\nred\ngreen\n")
    with pytest.raises(ValueError, match=r"blue.*green"):
        prepare_segmentation(read_segmentation_folder(train), read_segmentation_folder(test), run)


class TestZeroAnd255:
    """Masks of 0 and 255, where 255 is a class in some data sets and no class in others."""

    @pytest.mark.parametrize("names", [None, "sky\nbird\n"])
    def test_masks_of_nothing_else__have_two_classes(
        self, copied: tuple[Path, Path], run: RunSettings, names: str | None
    ) -> None:
        for folder in copied:
            renumber(folder, {1: 255, 2: 255})
            if names:
                (folder / "classes.txt").write_text(names)
        splits = prepare(copied, run)
        assert splits.train.classes == splits.test.classes == (("sky", "bird") if names else ("0", "255"))
        assert sorted(splits.test.mask(0).unique().tolist()) == [0, 1]
        assert "hold only 0 and 255" in splits.notes()[0]

    def test_masks_of_test_without_objects__are_of_the_same_kind(
        self, copied: tuple[Path, Path], run: RunSettings
    ) -> None:
        for folder in copied:
            renumber(folder, {1: 255, 2: 255})
        Image.new("L", (32, 32)).save(copied[1] / "masks" / "0.png")
        assert prepare(copied, run).test.mask(0).max() == 0

    def test_beside_other_numbers__255_is_no_class(self, copied: tuple[Path, Path], run: RunSettings) -> None:
        renumber(copied[0], {2: 255})
        renumber(copied[1], {2: 255})
        splits = prepare(copied, run)
        assert splits.train.classes == ("0", "1")
        assert splits.test.mask(1).max() == 255
        assert [note.split(", and ")[1] for note in splits.notes()] == [
            "4 masks of train hold no number but it and 0",
            "2 masks of test hold no number but it and 0",
        ]

    @pytest.mark.parametrize("part", [0, 1])
    def test_one_kind_to_learn_from_and_another_to_measure_on__is_refused(
        self, copied: tuple[Path, Path], run: RunSettings, part: int
    ) -> None:
        renumber(copied[part], {1: 255, 2: 255})
        renumber(copied[1 - part], {2: 1})
        with pytest.raises(ValueError, match=r"255.* means unlabelled"):
            prepare(copied, run)

    def test_one_of_three_named_classes__is_refused(self, copied: tuple[Path, Path], run: RunSettings) -> None:
        for folder in copied:
            renumber(folder, {1: 255, 2: 255})
            (folder / "classes.txt").write_text("background\nred\nblue\n")
        with pytest.raises(ValueError, match=r"only the class background \(255 means unlabelled here\)"):
            prepare(copied, run)


def test_a_single_class__is_refused(copied: tuple[Path, Path], run: RunSettings) -> None:
    renumber(copied[1], {0: 1, 2: 1})
    with pytest.raises(ValueError, match=r"\(test\) have only the class"):
        prepare(copied, run)


def test_classes_that_occur_nowhere__are_noted(copied: tuple[Path, Path], run: RunSettings) -> None:
    for folder in copied:
        (folder / "classes.txt").write_bytes(b"\xef\xbb\xbfbackground\nred\nblue\nwhite\n")
    splits = prepare(copied, run)
    assert splits.train.classes[0] == "background"  # without the byte order mark
    assert splits.notes() == [f"classes that occur in no mask of {part}: white" for part in ("train", "test")]
