import errno
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources import IMAGE_SUFFIXES, ImageFolder, ImageList
from stellar_hub.data.sources.files import PackedNames, class_of_folder, find_images, scan_images
from stellar_hub.data.sources.image_source import stamp_of

# Checkpoints and stores hold fingerprints, so they stay as they are.
FOLDER_FINGERPRINT = "1ca9931c33073e3ff006b8fe672842d815292ba1dd5c7efc3cda9c3aa153b236"
LIST_FINGERPRINT = "cc7f9172473fbb7e34fa74500376cfed6467cc4591fee080b1e69448383435d9"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_images__lists_images_of_all_depths_sorted(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b/x.png", "b-c/x.JPG", "a.tiff", "b/a/deep/y.webp", "notes.txt", "b/z")))
    assert find_images(tmp_path) == ["a.tiff", "b/a/deep/y.webp", "b/x.png", "b-c/x.JPG"]


def test_find_images__takes_every_suffix_in_either_case(tmp_path: Path) -> None:
    names = {name for suffix in IMAGE_SUFFIXES for name in (f"a{suffix}", f"b{suffix.upper()}")}
    touch(*(tmp_path / name for name in names))
    assert set(find_images(tmp_path)) == names


def test_find_images__skips_hidden_files_and_folders_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / ".photographs"
    touch(root / "seen.png", root / "._seen.png", root / ".cache" / "hidden.png")
    assert find_images(root) == ["seen.png"]


def test_find_images__skips_folders_that_systems_make(tmp_path: Path) -> None:
    for name in ("a.jpg", "@eaDir/a.jpg/thumb.jpg", "x/__MACOSX/a.jpg", "lost+found/a.jpg", "$RECYCLE.BIN/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == ["a.jpg"]


def test_find_images__a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "album.png" / "seen.png")
    assert find_images(tmp_path) == ["album.png/seen.png"]


def test_find_images__links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "seen.png", tmp_path / "two" / "seen.png")
    (tmp_path / "one" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two", target_is_directory=True)
    (tmp_path / "two" / "one").symlink_to(tmp_path / "one", target_is_directory=True)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    assert find_images(tmp_path) == ["one/seen.png", "one/two/seen.png"]


def test_find_images__follows_links_that_end_below_the_folder_or_the_root(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    touch(far / "a.png", near / "own" / "b.png")
    (near / "far").symlink_to(far, target_is_directory=True)
    (near / "far.png").symlink_to(far / "a.png")
    (near / "again.png").symlink_to(near / "own" / "b.png")
    found = scan_images(near)
    assert found.names == ["again.png", "own/b.png"]
    assert re.search(r"^2 links .*\(--root\)", found.notes[0])
    assert scan_images(near, root=tmp_path) == (["again.png", "far/a.png", "far.png", "own/b.png"], ())
    (tmp_path / "nearby").symlink_to(near, target_is_directory=True)
    assert find_images(tmp_path / "nearby") == ["again.png", "own/b.png"]


def test_scan_images__counts_what_is_passed_over(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.png", "b.txt", "sub/c.TXT", "d", ".hidden", "._a.png")))
    os.mkfifo(tmp_path / "pipe.png")
    others, special = scan_images(tmp_path).notes
    assert re.search(r"^3 files .*\(\.txt, no suffix\)", others)
    assert special.startswith("1 entry")
    assert scan_images(tmp_path).names == ["a.png"]


def test_scan_images__an_empty_folder_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path / "a.xyz", tmp_path / "\x1b[31m.txt")
    with pytest.raises(ValueError, match=r"2 files .*\.xyz") as caught:
        scan_images(tmp_path)
    assert str(caught.value).isprintable()


def test_stamp__changes_with_the_file_alone(folder: Path) -> None:
    (folder / "l.txt").write_text("a.png\nsub/b.png\ngone.png")
    for source in (ImageFolder.scan(folder), ImageList.read(folder / "l.txt")):
        before = [source.stamp(index) for index in range(2)]
        assert [source.stamp(index) for index in range(2)] == before
        time = os.stat(source[0]).st_mtime_ns
        os.utime(source[0], ns=(time, time + 10))
        assert source.stamp(0) != before[0]
        assert source.stamp(1) == before[1]
    assert source.stamp(2) == ""
    assert stamp_of([folder / "a.png"], 0) == source.stamp(0)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone", FileNotFoundError, "gone"),
        ("notes.txt", NotADirectoryError, r"notes\.txt"),
        (".", ValueError, r"\.jpg, .*\.webp.* other suffixes"),
    ],
)
@pytest.mark.parametrize("read", [find_images, ImageFolder.scan])
def test_folder__without_images_is_refused(
    tmp_path: Path, read: Callable[[Path], object], name: str, error: type[Exception], message: str
) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(error, match=message):
        read(tmp_path / name)


@given(st.lists(st.binary(max_size=8).map(os.fsdecode)))
def test_names__come_back_whatever_their_bytes(names: list[str]) -> None:
    packed = PackedNames.pack(names)
    assert len(packed) == len(names)
    assert list(packed) == [packed[index] for index in range(len(packed))] == names


@pytest.mark.parametrize("index", [-1, 2])
def test_names__refuse_an_index_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=rf"{index} .* 2 names"):
        PackedNames.pack(["a", "b"])[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 3 images of different sizes."""
    for name, size in (("a.png", 1), ("sub/b.png", 2), ("sub/é .jpg", 3)):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(b"x" * size)
    return tmp_path / "one"


def test_scan__gives_the_files_in_order(folder: Path) -> None:
    source = ImageFolder.scan(folder)
    expected = [folder / "a.png", folder / "sub" / "b.png", folder / "sub" / "é .jpg"]
    assert len(source) == 3
    assert [source[index] for index in range(3)] == list(source) == expected


def test_scan__paths_hold_when_the_working_directory_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    source = ImageFolder.scan("one")
    monkeypatch.chdir(folder)
    assert source[0].read_bytes() == b"x"


def test_source__survives_pickling(folder: Path) -> None:
    source = ImageFolder.scan(folder)
    copied = pickle.loads(pickle.dumps(source))
    assert list(copied) == list(source)
    assert copied.fingerprint() == source.fingerprint()


def test_source__names_that_are_not_unicode_lead_to_their_file(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    with open(path, "wb") as file:
        file.write(b"x")
    source = ImageFolder.scan(tmp_path)
    assert source[0].read_bytes() == b"x"
    assert len(source.fingerprint()) == 64


class TestFingerprint:
    def test_fingerprint__never_changes(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png", b"x")
        write(tmp_path / "sub" / "b.png", b"xx")
        assert ImageFolder.scan(tmp_path).fingerprint() == FOLDER_FINGERPRINT
        assert ImageList.read(write(tmp_path / "l.txt", b"a.png\nb.png")).fingerprint() == LIST_FINGERPRINT

    def test_fingerprint__is_the_same_elsewhere_and_at_other_times(self, folder: Path, tmp_path: Path) -> None:
        before = ImageFolder.scan(folder).fingerprint()
        moved = tmp_path / "elsewhere" / "under another name"
        shutil.copytree(folder, moved)
        os.utime(moved / "a.png", (1, 1))
        assert ImageFolder.scan(moved).fingerprint() == before
        assert len(before) == 64

    def test_fingerprint__changes_with_names_and_sizes(self, folder: Path) -> None:
        seen = [ImageFolder.scan(folder).fingerprint()]
        (folder / "a.png").write_bytes(b"longer")
        seen.append(ImageFolder.scan(folder).fingerprint())
        (folder / "a.png").rename(folder / "aa.png")
        seen.append(ImageFolder.scan(folder).fingerprint())
        assert len(set(seen)) == len(seen)

    def test_fingerprint__an_image_that_is_gone_has_no_size(self, folder: Path) -> None:
        source = ImageFolder.scan(folder)
        before = source.fingerprint()
        source[1].unlink()
        assert len(source.fingerprint()) == 64
        assert source.fingerprint() != before

    def test_fingerprint__a_disk_that_fails_is_no_other_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(path: object) -> None:
            raise OSError(errno.EIO, "Input/output error", path)

        source = ImageFolder.scan(folder)
        monkeypatch.setattr(os, "stat", fail)
        with pytest.raises(OSError, match="Input/output"):
            source.fingerprint()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("folder", "roots", "name"),
    [
        ("/photos/cats", ("/photos",), "cats"),
        ("/photos/cats/outdoors/2020", ("/photos",), "cats"),
        ("/photos", ("/photos",), "photos"),
        ("/a/../photos/cats/outdoors", ("/photos",), "cats"),
        ("/photos/../photos/cats/outdoors", ("/photos",), "cats"),
        ("/photos/cats/outdoors", ("/photos/cats", "/photos"), "cats"),
        ("/photos/cats/outdoors", ("/photos/cat", "/elsewhere"), "outdoors"),
        ("part.tar/train/cats", ("/part.tar",), "cats"),
        ("cats/", (), ""),
        ("", ("/photos",), ""),
    ],
)
def test_class_of_folder__is_the_first_folder_below_a_root(folder: str, roots: tuple[str, ...], name: str) -> None:
    assert class_of_folder(folder, roots) == name
