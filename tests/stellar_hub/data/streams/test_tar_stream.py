import gzip
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_hub.data.sources import TarShards
from stellar_hub.data.streams import DamagedShardError, TarStream
from tests.stellar_hub.data.sources.conftest import png, write_tar


def read_all(stream: TarStream, shard: int = 0) -> tuple[list[bytes], str | None]:
    """The images up to the end or the damage, and what the damage is."""
    found = []
    try:
        for image in stream.read(shard):
            found.append(image.data)
    except DamagedShardError as error:
        return found, str(error)
    return found, None


def test_read__gives_what_the_indexed_source_gives(shards: list[Path]) -> None:
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
def test_shard_cut_short__gives_what_lies_before_and_says_so(
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
    assert found == [png(0)]
    assert damage is not None


def test_missing_file__is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(TarStream([str(tmp_path / "none.tar")]).read(0))


def test_no_tar__is_damaged(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("hello")
    assert read_all(TarStream([str(tmp_path / "text.tar")]))[1] is not None


@pytest.mark.parametrize(("paths", "message"), [([], "no tar file"), (["a.tar", "a.tar"], "given twice: a.tar")])
def test_names_that_make_no_stream__are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TarStream(paths)


def test_fingerprint__is_of_the_names_alone(shards: list[Path], tmp_path: Path) -> None:
    names = [path.name for path in shards]
    assert TarStream([str(path) for path in shards]).fingerprint() == TarStream(names).fingerprint()
    assert TarStream(names).fingerprint() != TarStream(names[::-1]).fingerprint()
