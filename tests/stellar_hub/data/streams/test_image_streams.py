import gzip
from pathlib import Path
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
