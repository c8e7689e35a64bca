"""Train and test pictures with masks."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from stellar_hub.data.segmentation_folders import read_segmentation_folder
from stellar_hub.evaluation.features import RunSettings
from stellar_hub.evaluation.segmentation_splits import prepare_segmentation


@pytest.fixture
def copied(mask_folders: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, to be spoiled."""
    for name, folder in zip(("train", "test"), mask_folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "train", tmp_path / "test"


def test_spoiled_masks__are_refused_before_any_work(copied: tuple[Path, Path], run: RunSettings) -> None:
    train, test = copied
    Image.new("L", (32, 31)).save(test / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"masks/3\.png has 31 x 32 pixels, and its picture 32 x 32"):
        prepare_segmentation(read_segmentation_folder(train), read_segmentation_folder(test), run)
    Image.new("L", (32, 32), 7).save(test / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"masks/3\.png has the label 7, and the classes are 0 to 2"):
        prepare_segmentation(read_segmentation_folder(train), read_segmentation_folder(test), run)


def test_shared_pictures_and_other_classes__are_refused(copied: tuple[Path, Path], run: RunSettings) -> None:
    train, test = copied
    shutil.copy(train / "pictures" / "0.png", test / "pictures" / "0.png")
    learned, measured = read_segmentation_folder(train), read_segmentation_folder(test)
    with pytest.raises(ValueError, match=r"1 of 5 pictures of .* are in .* too"):
        prepare_segmentation(learned, measured, run)
    assert prepare_segmentation(learned, measured, run, allow_shared=True).num_shared == 1
    (test / "classes.txt").write_text("background\nred\ngreen\n")
    with pytest.raises(ValueError, match="they must be the same"):
        prepare_segmentation(learned, read_segmentation_folder(test), run)
