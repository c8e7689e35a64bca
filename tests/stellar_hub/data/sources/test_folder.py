import os
import pickle
import shutil
from pathlib import Path

import pytest

from stellar_hub.data.sources import PictureFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 3 pictures of different sizes."""
    for name, size in (("a.png", 1), ("sub/b.png", 2), ("sub/é .jpg", 3)):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(b"x" * size)
    return tmp_path / "one"


def test_scan__gives_the_files_in_order(folder: Path) -> None:
    source = PictureFolder.scan(folder)
    expected = [folder / "a.png", folder / "sub" / "b.png", folder / "sub" / "é .jpg"]
    assert len(source) == 3
    assert [source[index] for index in range(3)] == list(source) == expected


def test_scan__paths_hold_when_the_working_directory_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    source = PictureFolder.scan("one")
    monkeypatch.chdir(folder)
    assert source[0].read_bytes() == b"x"


@pytest.mark.parametrize("index", [-1, 3])
def test_getitem__refuses_what_lies_outside(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"picture {index} of 3"):
        PictureFolder.scan(folder)[index]


def test_source__survives_pickling(folder: Path) -> None:
    source = PictureFolder.scan(folder)
    copied = pickle.loads(pickle.dumps(source))
    assert list(copied) == list(source)
    assert copied.fingerprint() == source.fingerprint()


def test_source__names_that_are_no_unicode_lead_to_their_file(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    with open(path, "wb") as file:
        file.write(b"x")
    source = PictureFolder.scan(tmp_path)
    assert source[0].read_bytes() == b"x"
    assert len(source.fingerprint()) == 64


class TestFingerprint:
    def test_fingerprint__is_the_same_elsewhere_and_at_other_times(self, folder: Path, tmp_path: Path) -> None:
        before = PictureFolder.scan(folder).fingerprint()
        moved = tmp_path / "elsewhere" / "under another name"
        shutil.copytree(folder, moved)
        os.utime(moved / "a.png", (1, 1))
        assert PictureFolder.scan(moved).fingerprint() == before
        assert len(before) == 64

    def test_fingerprint__changes_with_names_and_sizes(self, folder: Path) -> None:
        seen = [PictureFolder.scan(folder).fingerprint()]
        (folder / "a.png").write_bytes(b"longer")
        seen.append(PictureFolder.scan(folder).fingerprint())
        (folder / "a.png").rename(folder / "aa.png")
        seen.append(PictureFolder.scan(folder).fingerprint())
        assert len(set(seen)) == len(seen)

    def test_fingerprint__a_picture_gone_meanwhile_is_named(self, folder: Path) -> None:
        source = PictureFolder.scan(folder)
        source[1].unlink()
        with pytest.raises(FileNotFoundError, match=r"b\.png"):
            source.fingerprint()


class TestErrors:
    def test_scan__missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such folder: .*gone"):
            PictureFolder.scan(tmp_path / "gone")

    def test_scan__empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no pictures in the folder .*; looked for \.bmp"):
            PictureFolder.scan(tmp_path)
