import bz2
import gzip
import io
import lzma
import random
import zlib
from collections.abc import Callable

import pytest

from stellar_hub.data.streams import decompression
from stellar_hub.data.streams.decompression import open_decompressed

PACK: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]
CONTENT = random.Random(0).randbytes(300_000) + bytes(200_000)


def read_all(data: bytes, size: int = 1000, step: int = 10**6) -> bytes:
    """All bytes of a file, asked for in parts, of which the file gives at most `step` at once."""
    file = io.BytesIO(data)
    read = open_decompressed(lambda size: file.read(min(size, step)), "a.tar")
    return b"".join(iter(lambda: read(size), b""))


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize(("size", "step"), [(512, 7), (10**6, 10**6), (65536, 1000)])
def test_content__is_read_in_parts_of_any_size(pack: Callable[[bytes], bytes], size: int, step: int) -> None:
    assert read_all(pack(CONTENT), size, step) == CONTENT


def test_plain_file__is_read_as_it_is() -> None:
    assert read_all(CONTENT) == CONTENT
    assert read_all(b"ab") == b"ab"
    assert read_all(b"") == b""


@pytest.mark.parametrize("pack", PACK)
def test_joined_files__are_read_as_one(pack: Callable[[bytes], bytes]) -> None:
    assert read_all(pack(b"one") + pack(b"") + pack(b"two") + bytes(700)) == b"onetwo"


@pytest.mark.parametrize("pack", PACK)
def test_cut_short__is_an_error(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(CONTENT)
    with pytest.raises(EOFError, match="cut short"):
        read_all(packed[: len(packed) // 2])


def test_damaged__is_an_error() -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[-8] ^= 1  # the checksum
    with pytest.raises(zlib.error):
        read_all(bytes(packed))


@pytest.mark.parametrize("pack", PACK)
def test_bomb__is_an_error_beyond_the_ratio(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "_FREE_BYTES", 10**6)
    packed = pack(bytes(10**8))
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_ARCHIVE_RATIO"):
        read_all(packed, 10**6)
    monkeypatch.setenv("STELLAR_HUB_MAX_ARCHIVE_RATIO", "100000000")
    assert len(read_all(packed, 10**6)) == 10**8


def test_zstandard__is_refused_with_what_to_use() -> None:
    with pytest.raises(ValueError, match=r"zstandard.*gzip"):
        read_all(b"\x28\xb5\x2f\xfd" + bytes(100))
