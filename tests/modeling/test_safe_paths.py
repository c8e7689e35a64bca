"""Names and paths from elsewhere."""

import os
import socket
from pathlib import Path

import pytest

from stellar_hub.modeling.limits import variable_of
from stellar_hub.modeling.safe_paths import path_below, read_bounded, regular_file, utf8_name


@pytest.mark.parametrize("name", ["a.safetensors", "parts/a.safetensors", "a..b", "..a", "ä.bin"])
def test_path_below__takes_names_in_the_folder(tmp_path: Path, name: str) -> None:
    assert path_below(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["", "../a", "a/../../b", "a\\..\\b", "/etc/passwd", "\\\\host\\share", "C:a", "c:\\a", "~/a", "a\0", "\x1b", 3],
)
def test_path_below__refuses_what_leads_out(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match=r"^index\.json names the file") as caught:
        path_below(tmp_path, name, "index.json")
    assert str(caught.value).isprintable()


def test_regular_file__takes_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert regular_file(tmp_path / "link") == tmp_path / "link"
    assert regular_file(tmp_path / "link", tmp_path) == tmp_path / "a"


def test_regular_file__refuses_pipes_devices_sockets_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        for path, kind in (
            ("pipe", "pipe"),
            ("link", "pipe"),
            ("socket", "socket"),
            ("/dev/zero", "device"),
            (".", "folder"),
        ):
            with pytest.raises(ValueError, match=f"is a {kind}"):
                regular_file(path)
    with pytest.raises(FileNotFoundError, match="gone"):
        regular_file("gone")


def test_regular_file__is_below_its_root_after_links(tmp_path: Path) -> None:
    for folder in ("root", "root-2", "root/sub"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").touch()
    root = tmp_path / "root"
    (root / "out").symlink_to(tmp_path / "root-2" / "a")
    (root / "in").symlink_to(root / "sub" / "a")
    assert regular_file(root / "in", root) == (root / "sub" / "a").resolve()
    for path in (root / "out", root / ".." / "root-2" / "a", tmp_path / "root-2" / "a"):
        with pytest.raises(ValueError, match="below"):
            regular_file(path, root)


def test_read_bounded__stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", "image_bytes") == b"12345"
    monkeypatch.setenv(variable_of("image_bytes"), "4")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_IMAGE_BYTES"):
        read_bounded(tmp_path / "a", "image_bytes")


def test_utf8_name__opens_a_file_of_any_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    path.write_bytes(b"content")
    with utf8_name(path) as name:
        str(name).encode()
        assert Path(name).read_bytes() == b"content"
    with utf8_name(tmp_path / "not there") as name:
        assert name == tmp_path / "not there"
