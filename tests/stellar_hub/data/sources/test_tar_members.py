import io
import tarfile
from pathlib import Path

import pytest

from stellar_hub.data.sources.tar_members import BLOCK, Damage, ForwardReader, Member, walk_members
from tests.stellar_hub.data.sources.conftest import png, write_tar


def walk(data: bytes, known_size: bool = True) -> tuple[list[Member], str]:
    """The members of a tar, and what is damaged, whether its size is known (a file) or not (a stream)."""
    file, damage = io.BytesIO(data), Damage()
    reader = ForwardReader(file.read, file.seek, len(data)) if known_size else ForwardReader(file.read)
    return list(walk_members(reader, damage)), str(damage)


def names(data: bytes) -> list[str]:
    found, damage = walk(data)
    assert (found, damage) == walk(data, known_size=False)
    return [member.name for member in found]


def header(name: str, kind: bytes = b"0", size: int = 0, **fields: int | str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def blocks(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


END = bytes(2 * BLOCK)


@pytest.fixture
def tar(tmp_path: Path) -> bytearray:
    """Five images of a header and a block each."""
    return bytearray(write_tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(5)}).read_bytes())


def test_whole__has_no_damage(tar: bytearray) -> None:
    assert walk(bytes(tar))[1] == ""
    assert names(bytes(tar)) == [f"{n}.png" for n in range(5)]


@pytest.mark.parametrize(("first", "last"), [(2, 3), (2, 4), (2, 5), (0, 2), (3, 6), (0, 9)])
def test_zeros_inside__cost_the_members_there_and_are_said(tar: bytearray, first: int, last: int) -> None:
    tar[first * BLOCK : last * BLOCK] = bytes((last - first) * BLOCK)
    lost = {block // 2 for block in range(first, last) if not block % 2}
    assert names(bytes(tar)) == [f"{n}.png" for n in range(5) if n not in lost]
    assert f"zeros from byte {(first + first % 2) * BLOCK}" in walk(bytes(tar))[1]


def test_zeros_to_the_end__are_said(tar: bytearray) -> None:
    data = bytes(tar[: 4 * BLOCK]) + bytes(50 * BLOCK)
    assert "zeros from byte 2048 to its end" in walk(data)[1]


@pytest.mark.parametrize("record", [1, 20, 64, 2048])
def test_end__filled_up_to_any_record_is_whole(tar: bytearray, record: int) -> None:
    data = bytes(tar[: 10 * BLOCK]) + END
    assert walk(data + bytes(-len(data) % (record * BLOCK)))[1] == ""


def test_zeros_without_end__are_not_read(tar: bytearray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.sources.tar_members.MAX_ZEROS", 2**20)
    damage, data = Damage(), bytes(tar) + bytes(2**23)
    reader = ForwardReader(io.BytesIO(data).read)
    assert len(list(walk_members(reader, damage))) > 0
    assert damage.count == 1
    assert reader.position < len(tar) + 2**22


def test_joined__are_read_as_one_and_whole(tar: bytearray) -> None:
    assert names(bytes(tar + tar)) == 2 * [f"{n}.png" for n in range(5)]
    assert walk(bytes(tar + tar + tar))[1] == ""


@pytest.mark.parametrize("cut", [5, 600, 2000, 3 * BLOCK])
def test_joined__after_one_that_is_cut_short_are_found(tar: bytearray, cut: int) -> None:
    data = bytes(tar[:-cut] if cut < BLOCK else tar[: 10 * BLOCK - cut]) + bytes(tar)
    assert names(data)[-4:] == [f"{n}.png" for n in range(1, 5)]
    assert walk(data)[1] != ""


@pytest.mark.parametrize("size", [-512, -1, -(2**60)])
def test_negative_size__is_damage_and_ends(tar: bytearray, size: int) -> None:
    tar[2 * BLOCK : 3 * BLOCK] = header("1.png", size=size)
    assert names(bytes(tar)) == ["0.png", "2.png", "3.png", "4.png"]
    assert "byte 1024" in walk(bytes(tar))[1]


def test_huge_size__is_cut_short(tar: bytearray) -> None:
    tar[2 * BLOCK : 3 * BLOCK] = header("1.png", size=2**70)
    assert walk(bytes(tar)) == ([*walk(bytes(tar))[0][:1]], "1.png is cut short")


def test_long_headers__are_not_read(tar: bytearray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_HEADER_BYTES", "1000")
    for kind in (b"L", b"K", b"x"):
        long = header("long", kind, 3000) + blocks(b"a" * 3000)
        assert names(long + bytes(tar))[0] == "0.png"
        assert "STELLAR_HUB_MAX_HEADER_BYTES" in walk(long + bytes(tar))[1]


@pytest.mark.parametrize("body", [b"999999 path=a.png\n", b"13 path", b"x path=b\n", b"12 size=-999\n"])
def test_damaged_pax_records__are_said_and_the_member_stays(tar: bytearray, body: bytes) -> None:
    data = header("pax", b"x", len(body)) + blocks(body) + bytes(tar)
    assert names(data)[0] == "0.png"
    assert "is damaged" in walk(data)[1]


def test_many_headers__are_no_recursion(tar: bytearray) -> None:
    body = b"11 comm=abc\n"
    data = 5000 * (header("pax", b"x", 11) + blocks(body[1:] + b"")) + bytes(tar)
    assert names(data)[0] == "0.png"


def test_members__have_a_limit(tar: bytearray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_ARCHIVE_MEMBERS", "3")
    assert len(names(bytes(tar))) == 3
    assert "STELLAR_HUB_MAX_ARCHIVE_MEMBERS" in walk(bytes(tar))[1]


def test_kinds__of_members() -> None:
    data = b"".join(
        [
            header("folder/", b"5", size=700),
            header("a.png", size=3) + blocks(b"abc"),
            header("b.png", b"1", linkname="a.png", size=700),
            header("c.png", b"2", linkname="a.png"),
            header("d.png", b"6"),
        ]
    )
    found, damage = walk(data + END)
    assert [(member.kind, member.target) for member in found] == [
        ("folder", ""),
        ("file", ""),
        ("link", "a.png"),
        ("symlink", "a.png"),
        ("other", ""),
    ]
    assert damage == ""


def test_sparse_member__is_passed_over_with_all_its_blocks() -> None:
    sparse = bytearray(header("s.png", b"S", size=3))
    sparse[482] = 1  # a block with more places follows
    sparse[483:495] = b"77777777777\0"  # size of the file
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    more = bytearray(BLOCK)
    data = bytes(sparse) + bytes(more) + blocks(b"abc") + header("a.png", size=3) + blocks(b"xyz") + END
    found, damage = walk(data)
    assert [(member.name, member.is_sparse, member.size) for member in found] == [
        ("s.png", True, 3),
        ("a.png", False, 3),
    ]
    assert damage == ""


def test_escapes_in_names__do_not_reach_messages(tar: bytearray) -> None:
    damage = walk(header("\x1b[31m.png", size=10**9))[1]
    assert damage.isprintable()
    assert r"\x1b" in damage


def test_damage__keeps_few_words() -> None:
    damage = Damage()
    for number in range(1000):
        damage.add(number)
    assert str(damage) == "0; 1; 2; 3; 4; and 995 more"
