import tarfile
from pathlib import Path

import pytest

from stellar_hub.data.sources.tar_index import index_tar
from tests.stellar_hub.data.sources.conftest import png, write_tar


def test_index__finds_pictures_where_they_lie(shards: list[Path]) -> None:
    index = index_tar(shards[0])
    data = shards[0].read_bytes()
    assert list(index.names) == ["0-0.png", "0-1.png", "0-2.png"]
    assert index.cut_short is None
    for color, (offset, size) in enumerate(zip(index.offsets, index.sizes, strict=True)):
        assert data[offset : offset + size] == png(color)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_index__reads_every_format_with_long_and_odd_names(tmp_path: Path, tar_format: int) -> None:
    names = ["a/" + "b" * 60 + "/" + "c" * 60 + ".png", "é .JPG"]
    path = write_tar(tmp_path / "a.tar", dict.fromkeys(names, png(1)), format=tar_format)
    assert list(index_tar(path).names) == names


def test_index__passes_over_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"a.txt": b"x", ".hidden.png": b"x", "sub/._a.png": b"x", "no-suffix": b"x", "b.left.png": png(1)})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("folder.png", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    assert list(index_tar(path).names) == ["b.left.png"]


def test_cut_short__keeps_what_lies_before(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    middle = int(whole.offsets[2]) + 10  # inside the third picture
    shards[0].write_bytes(shards[0].read_bytes()[:middle])
    index = index_tar(shards[0])
    assert list(index.names) == ["0-0.png", "0-1.png"]
    assert index.cut_short == "0-2.png is cut short"


def test_damaged_header__keeps_what_lies_before(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    data = bytearray(shards[0].read_bytes())
    header = int(whole.offsets[1]) - 512
    data[header : header + 512] = b"\xaa" * 512
    shards[0].write_bytes(data)
    index = index_tar(shards[0])
    assert list(index.names) == ["0-0.png"]
    assert index.cut_short == f"it is damaged at byte {header}"


def test_missing_end__is_said(shards: list[Path]) -> None:
    whole = index_tar(shards[0])
    end = int(whole.offsets[2] + whole.sizes[2] + 511) // 512 * 512
    shards[0].write_bytes(shards[0].read_bytes()[:end])
    index = index_tar(shards[0])
    assert len(index.names) == 3
    assert index.cut_short == "it has no end mark: what follows may be missing"


def test_compressed__is_refused_with_the_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"a\.tar is no plain tar file \(it is compressed: "):
        index_tar(tmp_path / "a.tar")


def test_no_tar__is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match=r"a\.tar is no plain tar file: "):
        index_tar(tmp_path / "a.tar")
    with pytest.raises(FileNotFoundError, match=r"no such tar file: .*gone\.tar"):
        index_tar(tmp_path / "gone.tar")
