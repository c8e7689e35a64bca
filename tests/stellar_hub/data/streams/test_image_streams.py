import errno
import gzip
import io
import os
import sys
import tarfile
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_hub.data.sources import TarShards, read_image
from stellar_hub.data.sources.table import HubDataset
from stellar_hub.data.streams import DamagedShardError, TableStream, TarStream
from stellar_hub.data.streams.image_streams import file_name, shown_address
from tests.stellar_hub.data.sources.conftest import png, write_tar

# Checkpoints hold fingerprints, so they stay as they are.
TAR_FINGERPRINT = "8b804bf8f32ca02b50375cdbaeab35b450da38cd1e36bbeed766560a80853988"
TABLE_FINGERPRINT = "140edb1acb20103fc21f655cf12ff66eb2d0e982e679f400b09645de48b79542"


def read_all(stream: TarStream, shard: int = 0) -> tuple[list[bytes], str | None]:
    """The images up to the end or the damage, and what the damage is."""
    found = []
    try:
        for image in stream.read(shard):
            found.append(image.data)
    except DamagedShardError as error:
        return found, str(error)
    return found, None


def test_tars__have_the_images_of_the_indexed_source(shards: list[Path]) -> None:
    stream, source = TarStream([str(path) for path in shards]), TarShards.scan(shards)
    streamed = [image for shard in range(3) for image in stream.read(shard)]
    assert streamed == list(source)


def test_links_and_parts_of_samples__are_those_of_the_indexed_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.depth.png": png(1), "a.png": png(2), "b.png": png(3)})
    with tarfile.open(tar, "a") as archive:
        for name, target in (("c.png", "a.png"), ("d.png", "../etc/a.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    stream = TarStream([str(tar)])
    assert list(stream.read(0)) == list(TarShards.scan([tar]))
    assert [str(image) for image in stream.read(0)] == ["a.tar/a.png", "a.tar/b.png", "a.tar/c.png"]
    assert caplog.text.count("a.depth.png") == 1  # once, although it was read twice
    assert "d.png" in caplog.text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lost_region__costs_its_images_alone(
    shards: list[Path], tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    content = bytearray(shards[0].read_bytes())
    content[3072:4096] = bytes(1024)  # the second image
    (tmp_path / "lost.tar").write_bytes(pack(bytes(content + shards[2].read_bytes())))
    found, damage = read_all(TarStream([str(tmp_path / "lost.tar")]))
    assert found == [png(0), png(2), png(4), png(5)]
    assert "zeros" in str(damage)


def test_image_above_the_limit__costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.png": bytes(3000), "b.png": png(1)})
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "2000")
    large, small = TarStream([str(tar)]).read(0)
    assert (large.data, small.data) == (b"", png(1))
    assert large.error.startswith("a.tar/a.png has 3,000 bytes")


def test_shard_without_images__is_said(tmp_path: Path) -> None:
    tars = [write_tar(tmp_path / "a.tar", {"a.xyz": b"x"}), tmp_path / "b.tar"]
    tars[1].write_bytes(b"")
    stream = TarStream([str(tar) for tar in tars])
    assert ".xyz" in str(read_all(stream, 0)[1])
    assert "empty" in str(read_all(stream, 1)[1])


def test_compressed_and_cut__keeps_what_is_before(shards: list[Path], tmp_path: Path) -> None:
    random = Random(0).randbytes(20_000)
    tar = write_tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": random}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar)[:5000])
    found, damage = read_all(TarStream([str(tmp_path / "a.tar.gz")]))
    assert found == [png(1)]
    assert "cut short" in str(damage)


def test_compressed_tar__is_read(shards: list[Path], tmp_path: Path) -> None:
    packed = tmp_path / "shard.tar.gz"
    packed.write_bytes(gzip.compress(shards[0].read_bytes()))
    assert read_all(TarStream([str(packed)])) == ([png(0), png(1), png(2)], None)


def test_address__is_read_through_fsspec(shards: list[Path]) -> None:
    with fsspec.open("memory://bucket/shard.tar", "wb") as file:
        file.write(shards[0].read_bytes())
    stream = TarStream(["memory://bucket/shard.tar"])
    assert [str(image) for image in stream.read(0)] == [f"shard.tar/0-{n}.png" for n in range(3)]


@given(length=st.integers(1, 9000))
@settings(max_examples=30, deadline=None)
def test_shard_cut_short__keeps_what_is_before_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write_tar(folder / "whole.tar", {f"{n}.png": png(n) for n in range(3)}).read_bytes()
    ends = [1024 * n + 512 + len(png(n)) for n in range(3)]  # a header and a block each
    (folder / "cut.tar").write_bytes(whole[: min(length, 3 * 1024)])
    found, damage = read_all(TarStream([str(folder / "cut.tar")]))
    assert found == [png(n) for n in range(3)][: sum(end <= length for end in ends)]
    assert damage is not None
    assert "cut.tar" in damage


def test_damaged_header__is_no_end(shards: list[Path]) -> None:
    content = bytearray(shards[0].read_bytes())
    content[2048:2560] = b"x" * 512  # the second image's label
    shards[0].write_bytes(content)
    found, damage = read_all(TarStream([str(shards[0])]))
    assert found == [png(0), png(1), png(2)]
    assert damage is not None


def test_missing_file__is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(TarStream([str(tmp_path / "none.tar")]).read(0))


ADDRESS = "https://me:SECRET@host/a.tar?X-Sig=SECRET,1&b=(SECRET)#SECRET"


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(address: str, mode: str) -> None:
        raise error

    monkeypatch.setattr(fsspec, "open", fail)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(ADDRESS), FileNotFoundError),
        (PermissionError(errno.EACCES, ADDRESS), PermissionError),
        (RuntimeError(f"403, url={ADDRESS!r}"), OSError),
        (ImportError(f"no library for {ADDRESS}"), ImportError),
    ],
)
def test_error_of_an_address__has_no_secrets(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    fail_with(monkeypatch, error)
    monkeypatch.setattr("stellar_hub.data.streams.image_streams.require", lambda *_: None)
    with pytest.raises(kind) as raised:
        list(TarStream([ADDRESS]).read(0))
    assert "SECRET" not in "".join(traceback.format_exception(raised.value)[-1:])
    assert raised.value.__suppress_context__


def test_error_of_reading__has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(f"connection to {ADDRESS} lost")

    monkeypatch.setattr(fsspec.core.OpenFile, "__enter__", lambda self: Broken())
    monkeypatch.setattr(fsspec, "open", lambda *_: fsspec.core.OpenFile(None, "a"))
    found, damage = read_all(TarStream([ADDRESS]))
    assert found == []
    assert "lost" in str(damage)
    assert "SECRET" not in str(damage)


def test_full_machine__is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(OSError, match="Too many open files") as error:
        list(TarStream(["a.tar"]).read(0))
    assert error.value.errno == errno.EMFILE


def test_web_address__needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ImportError("HTTPFileSystem requires aiohttp"))
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError, match=r"stellar_hub\[http\]"):
        list(TarStream([ADDRESS]).read(0))


@pytest.mark.parametrize(
    ("address", "shown", "name"),
    [
        (ADDRESS, "https://***@host/a.tar?***", "a.tar"),
        ("s3://KEY:SECRET@bucket/x/a.tar", "s3://***@bucket/x/a.tar", "a.tar"),
        ("tar://b.tar::https://me:SECRET@h/a.tar?SECRET", "tar://b.tar::https://***@h/a.tar?***", "a.tar"),
        ("filecache::https://h/a.tar.gz#SECRET", "filecache::https://h/a.tar.gz?***", "a.tar.gz"),
        ("folder/a?#1.tar", "folder/a?#1.tar", "a?#1.tar"),
    ],
)
def test_address__is_shown_and_named_without_secrets(address: str, shown: str, name: str) -> None:
    assert shown_address(address) == shown
    assert file_name(address) == name
    assert TarStream([address]).shards == (shown,)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_pipe_or_device__is_damaged(tmp_path: Path, prefix: str) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "device.tar").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(DamagedShardError, match=rf"{name}\.tar is a {name}"):
            list(TarStream([f"{prefix}{tmp_path}/{name}.tar"]).read(0))


def test_member_above_the_limit__is_not_read_in_a_file_of_this_machine(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.png")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(tmp_path / "a.tar", 2**40 + 512)  # it takes no place on the disk
    with write_tar(tmp_path / "b.tar", {"b.png": png(1)}).open("rb") as more, (tmp_path / "a.tar").open("ab") as file:
        file.write(more.read())
    images = list(TarStream([str(tmp_path / "a.tar")]).read(0))
    assert [image.name for image in images] == ["a.tar/huge.png", "a.tar/b.png"]
    assert "MAX_IMAGE_BYTES" in images[0].error


def test_links__that_a_second_reading_loses_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(1))
        tar.addfile(info, io.BytesIO(png(1)))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)

    def fail(*arguments: object) -> None:
        raise ConnectionResetError("the host went away")

    monkeypatch.setattr("stellar_hub.data.streams.image_streams.linked_images", fail)
    images, damage = read_all(TarStream([str(tmp_path / "a.tar")]))
    assert images == [png(1)]
    assert "the host went away" in str(damage)


def test_given_twice__has_no_secrets() -> None:
    with pytest.raises(ValueError, match="twice") as error:
        TarStream([ADDRESS, ADDRESS])
    assert "SECRET" not in str(error.value)


def test_other_file__is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("hello")
    assert read_all(TarStream([str(tmp_path / "text.tar")]))[1] is not None


@pytest.mark.parametrize(("paths", "message"), [([], "no tar file"), (["a.tar", "a.tar"], "given twice: a.tar")])
def test_tars__none_or_twice_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TarStream(paths)


def test_tar_fingerprint__is_of_the_names_alone_and_never_changes(shards: list[Path], tmp_path: Path) -> None:
    names = [path.name for path in shards]
    assert TarStream([str(path) for path in shards]).fingerprint() == TarStream(names).fingerprint()
    assert TarStream(names).fingerprint() != TarStream(names[::-1]).fingerprint()
    assert TarStream(["folder/a.tar", "b.tar"]).fingerprint() == TAR_FINGERPRINT
    assert TarStream(["https://me:pw@h/a.tar?sig=a/b", "s3://x/b.tar"]).fingerprint() == TAR_FINGERPRINT


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two parquet files, with three images and with one."""
    paths = []
    for shard, colors in enumerate(((0, 1, 2), (3,))):
        rows = {"image": [{"bytes": png(color), "path": None} for color in colors], "label": list(colors)}
        paths.append(str(tmp_path / f"part-{shard}.parquet"))
        Dataset.from_dict(rows).to_parquet(paths[-1])
    return paths


def test_table__has_each_image_once_file_by_file(files: list[str]) -> None:
    stream = TableStream.from_parquet(files)
    assert [image.data for image in stream.read(0)] == [png(0), png(1), png(2)]
    assert [str(image) for image in stream.read(1)] == [f"{stream.shards[1]}, row 0"]
    assert list(stream.read(0)) == list(stream.read(0))
    assert stream.fingerprint() == TABLE_FINGERPRINT


def test_table__gives_bytes_alone_without_a_root(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png(5))
    rows = [{"bytes": png(0), "path": None}, {"bytes": None, "path": str(tmp_path / "private.png")}, None]
    table = pa.table({"image": pa.array(rows, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    images = list(TableStream.from_parquet([str(tmp_path / "t.parquet")]).read(0))
    assert read_image(images[0])[0, 0, 0] == 0
    for index, message in ((1, "row 1 .*--root"), (2, "row 2 .*empty")):
        with pytest.raises(ValueError, match=message):
            read_image(images[index])
    images = list(TableStream.from_parquet([str(tmp_path / "t.parquet")], root=tmp_path).read(0))
    assert read_image(images[1])[0, 0, 0] == 5


def test_table__of_plain_bytes_has_images(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"jpg": pa.array([png(7)], type=pa.large_binary())}), tmp_path / "t.parquet")
    assert [image.data for image in TableStream.from_parquet([str(tmp_path / "t.parquet")]).read(0)] == [png(7)]


def test_table_of_the_hub__is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(self: HubDataset, streaming: bool) -> Any:
        calls.append((*self, streaming))
        return Dataset.from_dict({"image": [{"bytes": png(5), "path": None}]}).to_iterable_dataset()

    monkeypatch.setattr(HubDataset, "load", load)
    stream = TableStream.from_hub("owner/name:test")
    assert [image.data for image in stream.read(0)] == [png(5)]
    assert calls == [("owner/name", "test", True)]


def test_table__file_that_is_gone_is_damaged(files: list[str]) -> None:
    stream = TableStream.from_parquet(files)
    Path(files[1]).unlink()
    with pytest.raises(DamagedShardError, match="row 0"):
        list(stream.read(1))


def test_table__without_the_column_is_refused(files: list[str]) -> None:
    with pytest.raises(ValueError, match=r"'photo'.*image, label"):
        TableStream.from_parquet(files, column="photo")
