import os
from pathlib import Path

import pytest

from stellar_hub.data.sources import ImageList, read_image
from stellar_hub.data.sources.image_source import image_digest


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_read__is_relative_to_the_list_and_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lists" / "train.txt", b"sub/b.png\r\n\na.png\n/elsewhere/c d.jpg")
    source = ImageList.read("lists/train.txt")
    expected = [tmp_path / "lists/sub/b.png", tmp_path / "lists/a.png", Path("/elsewhere/c d.jpg")]
    assert len(source) == 3
    assert [source[index] for index in range(3)] == list(source) == expected


def test_read__takes_names_that_are_not_unicode(tmp_path: Path) -> None:
    source = ImageList.read(write(tmp_path / "train.txt", b"\xff\xfe.png\n"))
    assert os.fsencode(source[0].name) == b"\xff\xfe.png"


def test_fingerprint__is_of_the_names_in_order(tmp_path: Path) -> None:
    lists = [b"a.png\nb.png", b"a.png\r\nb.png\n", b"b.png\na.png", b"a.png", b"a.pngb.png"]
    found = [ImageList.read(write(tmp_path / f"{i}.txt", data)).fingerprint() for i, data in enumerate(lists)]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_read__skips_a_byte_order_mark(tmp_path: Path) -> None:
    plain = ImageList.read(write(tmp_path / "a.txt", b"a.png\nb.png"))
    marked = ImageList.read(write(tmp_path / "b.txt", b"\xef\xbb\xbfa.png\r\nb.png\r\n"))
    assert list(marked) == list(plain)
    assert marked.fingerprint() == plain.fingerprint()


def test_read__refuses_a_list_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_TEXT_BYTES", "5")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_TEXT_BYTES"):
        ImageList.read(write(tmp_path / "a.txt", b"abcdef"))


def test_read__refuses_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt is a pipe"):
        ImageList.read(tmp_path / "a.txt")


def test_images__of_a_list_are_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    source = ImageList.read(write(tmp_path / "a.txt", b"/dev/zero\npipe.png\ngone.png\n."))
    for index, message in enumerate(("/dev/zero is a device", "pipe", "gone", "folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_image(source[index])
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            image_digest(source[index])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n \n", "names no image"),
        (b"a\0b", "not text"),
        ("a.png\nb.png".encode("utf-16"), "UTF-16"),
        (b"a.png\n" + b"b" * 40_000, "line 2"),
    ],
)
def test_read__refuses_what_is_not_a_list(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageList.read(write(tmp_path / "a.txt", data))
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        ImageList.read(tmp_path / "gone.txt")
