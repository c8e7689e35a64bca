import os
from pathlib import Path

import pytest

from stellar_hub.data.sources import PictureList


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_read__is_relative_to_the_list_and_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lists" / "train.txt", b"sub/b.png\r\n\na.png\n/elsewhere/c d.jpg")
    source = PictureList.read("lists/train.txt")
    expected = [tmp_path / "lists/sub/b.png", tmp_path / "lists/a.png", Path("/elsewhere/c d.jpg")]
    assert len(source) == 3
    assert [source[index] for index in range(3)] == list(source) == expected


def test_read__takes_names_that_are_no_unicode(tmp_path: Path) -> None:
    source = PictureList.read(write(tmp_path / "train.txt", b"\xff\xfe.png\n"))
    assert os.fsencode(source[0].name) == b"\xff\xfe.png"


def test_fingerprint__is_of_the_names_in_order(tmp_path: Path) -> None:
    lists = [b"a.png\nb.png", b"a.png\r\nb.png\n", b"b.png\na.png", b"a.png", b"a.pngb.png"]
    found = [PictureList.read(write(tmp_path / f"{i}.txt", data)).fingerprint() for i, data in enumerate(lists)]
    assert found[0] == found[1]
    assert len(set(found)) == 4


@pytest.mark.parametrize("index", [-1, 1])
def test_getitem__refuses_what_lies_outside(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"picture {index} of 1"):
        PictureList.read(write(tmp_path / "a.txt", b"a.png"))[index]


@pytest.mark.parametrize(("data", "message"), [(b"\n \n", "names no picture"), (b"a\0b", "is no list of pictures")])
def test_read__refuses_what_is_no_list(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.txt {message}.*; write one path per line"):
        PictureList.read(write(tmp_path / "a.txt", data))


def test_read__missing_list(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such list of pictures: .*gone\.txt"):
        PictureList.read(tmp_path / "gone.txt")
