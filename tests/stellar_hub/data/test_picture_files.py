from pathlib import Path

import pytest

from stellar_hub.data.picture_files import SUFFIXES, find_pictures


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_pictures__lists_pictures_of_all_depths_sorted(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b/x.png", "b-c/x.JPG", "a.tiff", "b/a/deep/y.webp", "notes.txt", "b/z")))
    assert find_pictures(tmp_path) == ["a.tiff", "b/a/deep/y.webp", "b/x.png", "b-c/x.JPG"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_find_pictures__takes_every_suffix_in_either_case(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path / f"a{suffix}", tmp_path / f"b{suffix.upper()}")
    assert find_pictures(tmp_path) == [f"a{suffix}", f"b{suffix.upper()}"]


def test_find_pictures__skips_hidden_files_and_folders(tmp_path: Path) -> None:
    touch(tmp_path / "seen.png", tmp_path / "._seen.png", tmp_path / ".cache" / "hidden.png")
    assert find_pictures(tmp_path) == ["seen.png"]


def test_find_pictures__hidden_root_is_read(tmp_path: Path) -> None:
    touch(tmp_path / ".photographs" / "seen.png")
    assert find_pictures(tmp_path / ".photographs") == ["seen.png"]


def test_find_pictures__a_folder_named_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "album.png" / "seen.png")
    assert find_pictures(tmp_path) == ["album.png/seen.png"]


def test_find_pictures__links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "seen.png", tmp_path / "two" / "seen.png")
    (tmp_path / "one" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two", target_is_directory=True)
    (tmp_path / "two" / "one").symlink_to(tmp_path / "one", target_is_directory=True)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    assert find_pictures(tmp_path) == ["one/seen.png", "one/two/seen.png"]


def test_find_pictures__follows_links_to_pictures_and_folders(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "a.png")
    near = tmp_path / "near"
    near.mkdir()
    (near / "folder").symlink_to(tmp_path / "far", target_is_directory=True)
    (near / "picture.png").symlink_to(tmp_path / "far" / "a.png")
    assert find_pictures(near) == ["folder/a.png", "picture.png"]


def test_find_pictures__missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*gone"):
        find_pictures(tmp_path / "gone")


def test_find_pictures__a_file_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        find_pictures(tmp_path / "a.png")


def test_find_pictures__empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no pictures in the folder .*looked for \.bmp, .*\.webp"):
        find_pictures(tmp_path)
