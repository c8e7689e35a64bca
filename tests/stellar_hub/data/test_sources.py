import os
import pickle
import shutil
from pathlib import Path

import pytest

from stellar_hub.data.sources import PictureFolders


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders with 2 and 3 pictures of different sizes."""
    for name, size in (("one/a.png", 1), ("one/sub/b.png", 2), ("two/c.jpg", 3), ("two/d.jpg", 4), ("two/é .jpg", 5)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    return [tmp_path / "one", tmp_path / "two"]


def test_scan__gives_the_files_folder_by_folder(folders: list[Path]) -> None:
    source = PictureFolders.scan(folders)
    one, two = folders
    expected = [one / "a.png", one / "sub" / "b.png", two / "c.jpg", two / "d.jpg", two / "é .jpg"]
    assert len(source) == 5
    assert [source[index] for index in range(5)] == list(source) == expected


def test_scan__repeats_each_folder_as_often_as_asked(folders: list[Path]) -> None:
    source = PictureFolders.scan([str(folder) for folder in folders], repeats=[3, 2])
    one, two = (list(PictureFolders.scan([folder])) for folder in folders)
    assert len(source) == 3 * 2 + 2 * 3
    assert list(source) == one * 3 + two * 2


def test_scan__paths_hold_when_the_working_directory_changes(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    source = PictureFolders.scan(["one"])
    monkeypatch.chdir(tmp_path / "two")
    assert source[0].read_bytes() == b"x"


@pytest.mark.parametrize("index", [-1, 5])
def test_getitem__refuses_what_lies_outside(folders: list[Path], index: int) -> None:
    with pytest.raises(IndexError, match=f"picture {index} of 5"):
        PictureFolders.scan(folders)[index]


def test_source__survives_pickling(folders: list[Path]) -> None:
    source = PictureFolders.scan(folders, [2, 1])
    copied = pickle.loads(pickle.dumps(source))
    assert list(copied) == list(source)
    assert copied.fingerprint() == source.fingerprint()


def test_source__names_that_are_no_unicode_lead_to_their_file(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    with open(path, "wb") as file:
        file.write(b"x")
    source = PictureFolders.scan([tmp_path])
    assert source[0].read_bytes() == b"x"
    assert len(source.fingerprint()) == 64


class TestFingerprint:
    def test_fingerprint__is_the_same_elsewhere_and_at_other_times(self, folders: list[Path], tmp_path: Path) -> None:
        before = PictureFolders.scan(folders).fingerprint()
        moved = tmp_path / "elsewhere" / "under another name"
        shutil.copytree(folders[0], moved)
        os.utime(moved / "a.png", (1, 1))
        assert PictureFolders.scan([moved, folders[1]]).fingerprint() == before
        assert len(before) == 64

    def test_fingerprint__changes_with_names_sizes_repeats_and_order(self, folders: list[Path]) -> None:
        seen = [PictureFolders.scan(folders).fingerprint(), PictureFolders.scan(folders[::-1]).fingerprint()]
        seen.append(PictureFolders.scan(folders, [1, 2]).fingerprint())
        (folders[0] / "a.png").write_bytes(b"longer")
        seen.append(PictureFolders.scan(folders).fingerprint())
        (folders[0] / "a.png").rename(folders[0] / "aa.png")
        seen.append(PictureFolders.scan(folders).fingerprint())
        assert len(set(seen)) == len(seen)

    def test_fingerprint__a_picture_gone_meanwhile_is_named(self, folders: list[Path]) -> None:
        source = PictureFolders.scan(folders)
        source[1].unlink()
        with pytest.raises(FileNotFoundError, match=r"b\.png"):
            source.fingerprint()


class TestErrors:
    def test_scan__no_folder(self) -> None:
        with pytest.raises(ValueError, match="no folder of pictures was given"):
            PictureFolders.scan([])

    def test_scan__one_path_instead_of_a_list(self, folders: list[Path]) -> None:
        with pytest.raises(ValueError, match=r"must be a list of folders, got '.*one'; write \['.*one'\]"):
            PictureFolders.scan(str(folders[0]))

    def test_scan__missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such folder: .*gone"):
            PictureFolders.scan([tmp_path / "gone"])

    def test_scan__one_empty_folder_among_others(self, folders: list[Path], tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"no pictures in the folder .*empty; looked for \.bmp"):
            PictureFolders.scan([*folders, tmp_path / "empty"])

    def test_scan__repeats_of_another_length(self, folders: list[Path]) -> None:
        with pytest.raises(ValueError, match=r"one number per folder \(2\), got \[1, 2, 3\]"):
            PictureFolders.scan(folders, [1, 2, 3])

    @pytest.mark.parametrize("repeats", [[1, 0], [-1, 1], [1.5, 1]])
    def test_scan__repeats_below_one_or_broken(self, folders: list[Path], repeats: list[int]) -> None:
        with pytest.raises(ValueError, match="whole numbers of at least 1, got"):
            PictureFolders.scan(folders, repeats)
