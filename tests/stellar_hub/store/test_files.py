import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import atomic_write
from stellar_hub.store.files import (
    check_shard,
    header_of,
    open_shard,
    read_records,
    records_from_json,
    records_to_json,
    write_shard,
)

RECORDS = [ImageRecord(2, "a", (3, 4), (0.1, 0.2, 1 / 3, 5.0)), ImageRecord(3, "ü\\x", error="cut\u2028short")]
TENSORS = {"S": torch.arange(8.0).view(2, 4).bfloat16(), "L": torch.ones(2, 2, dtype=torch.uint8)}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(tmp_path / "000001.safetensors", range(2, 4), TENSORS, RECORDS, "plan")
    return tmp_path / "000001.safetensors"


def test_shard__comes_back_as_it_was(shard: Path) -> None:
    check_shard(shard, range(2, 4), "plan")
    opened = open_shard(shard, range(2, 4))
    assert torch.equal(opened.get_tensor("S"), TENSORS["S"])
    assert read_records(opened) == RECORDS


def test_shard__has_the_same_bytes_each_time(shard: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "again.safetensors", range(2, 4), dict(reversed(TENSORS.items())), RECORDS, "plan")
    assert (tmp_path / "again.safetensors").read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("stamps", [None, "0f" * 32])
def test_any_changed_byte__is_found(shard: Path, stamps: str | None) -> None:
    write_shard(shard, range(2, 4), TENSORS, RECORDS, "plan", stamps)
    assert header_of(open_shard(shard, range(2, 4))).stamps == stamps
    data = shard.read_bytes()
    for place in range(len(data)):
        shard.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with pytest.raises(ValueError, match="rows 2 to 3 "):
            check_shard(shard, range(2, 4), "plan")


@pytest.mark.parametrize(("rows", "plan"), [(range(2, 5), "plan"), (range(2, 4), "other")])
def test_other_shard__is_refused(shard: Path, rows: range, plan: str) -> None:
    with pytest.raises(ValueError, match="another extraction"):
        open_shard(shard, rows, plan)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_full_disk__is_said_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic_write.os, "fsync", fail)
    with pytest.raises(OSError, match=rf"{os.strerror(code)}.*7\.safetensors") as caught:
        write_shard(tmp_path / "7.safetensors", range(2, 4), TENSORS, RECORDS, "plan")
    assert caught.value.errno == code
    assert list(tmp_path.iterdir()) == []


def test_missing_shard__says_which_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 7"):
        open_shard(tmp_path / "gone.safetensors", range(7, 8))


def test_pipe__is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"row 2 .*a pipe"):
        open_shard(tmp_path / "a.safetensors", range(2, 3))


def test_foreign_safetensors__is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        open_shard(tmp_path / "foreign.safetensors", range(2, 4))


def test_other_programs__can_read_a_shard(shard: Path) -> None:
    with safe_open(shard, framework="np") as file:
        assert sorted(file.keys()) == ["L", "S", "records"]


sizes = st.tuples(st.integers(1, 99), st.integers(1, 99))
boxes = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 4)


@given(st.lists(st.builds(ImageRecord, st.integers(0, 2**40), st.text(), sizes, boxes, st.none() | st.text())))
def test_records__come_back_exactly(records: list[ImageRecord]) -> None:
    assert records_from_json(records_to_json(records)) == records


def test_shard__whose_name_is_not_utf8_is_read(shard: Path) -> None:
    path = shard.rename(os.fsdecode(os.fsencode(shard.parent) + b"/\xff"))
    assert torch.equal(open_shard(path, range(2, 4)).get_tensor("S"), TENSORS["S"])
