"""Class folders."""

from pathlib import Path

import pytest

from stellar_hub.data.labelled.class_folders import read_class_folders


def test_images__are_found_at_any_depth_class_after_class(class_folders: Path) -> None:
    labelled = read_class_folders(class_folders)
    assert labelled.classes == ("cats", "dogs")
    assert labelled.labels == (0, 0, 1)
    names = [Path(str(labelled.images[index])).relative_to(class_folders).as_posix() for index in range(3)]
    assert names == ["cats/2.png", "cats/old/3.jpg", "dogs/1.png"]


def test_what_is_no_folder_of_classes__is_refused(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no class folders: images are looked for in"):
        read_class_folders(class_folders / "dogs")
    (class_folders / "birds").mkdir()
    with pytest.raises(ValueError, match=r"classes with no images in .*: birds; fill or remove"):
        read_class_folders(class_folders)
    (tmp_path / "empty" / "birds").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images in the class folders of"):
        read_class_folders(tmp_path / "empty")
