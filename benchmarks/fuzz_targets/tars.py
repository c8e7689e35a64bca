"""Tar files: fields of headers, extended headers, lost regions, joined archives, links, and compressed bombs.

Each tar is read as a source (if it is not compressed) and as a stream. An image that was in the tar may be missing only
if the library says that something is missing.
"""

import bz2
import contextlib
import gzip
import io
import json
import logging
import lzma
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_targets import SilentDifference, refusal

NUMBER_FIELDS = {"mode": (100, 8), "size": (124, 12), "mtime": (136, 12), "checksum": (148, 8), "uid": (108, 8)}
SIZES = [-(2**62), -513, -512, -1, 0, 1, 511, 513, 2**20, 2**31, 2**33 - 1, 2**40, 2**62, 2**80]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": lambda data: gzip.compress(data, 1),
    "tar.bz2": lambda data: bz2.compress(data, 1),
    "tar.xz": lambda data: lzma.compress(data, preset=0),
}
BOMB_BYTES = 2**30


def png(rng: random.Random) -> bytes:
    """A small image with pixels of its own."""
    width, height = rng.randint(1, 24), rng.randint(1, 24)
    rows = b"".join(b"\0" + rng.randbytes(width) for _ in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def whole_tar(rng: random.Random, prefix: str = "") -> tuple[bytearray, dict[str, bytes], list[int]]:
    """A tar with images, labels and sometimes long names; its images by name, and where its headers are."""
    buffer, images = io.BytesIO(), {}
    options: dict[str, Any] = {"format": rng.choice(FORMATS)}
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for number in range(rng.randint(1, 8)):
            folder = rng.choice(["", "a/", "é/" * rng.randint(1, 20)])
            name = f"{folder}{prefix}{number}.png"
            images[name] = png(rng)
            members = [(name, images[name])]
            if rng.random() < 0.4:
                members.append((f"{folder}{prefix}{number}.json", rng.randbytes(rng.randint(0, 900))))
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        starts = [member.offset for member in archive.getmembers()]
    return bytearray(buffer.getvalue()), images, starts


def sign(data: bytearray, start: int) -> None:
    """Writes the checksum of a header."""
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])


def set_number(rng: random.Random, data: bytearray, start: int) -> None:
    """Writes a number into a field of a header, in octal or base-256, and often the right checksum."""
    begin, length = NUMBER_FIELDS[rng.choice([*NUMBER_FIELDS, "size", "size"])]
    value = rng.choice(SIZES)
    octal = b"%o" % abs(value)
    if value < 0 or rng.random() < 0.5 or len(octal) >= length:
        data[start + begin : start + begin + length] = (value % 256**length).to_bytes(length, "big")
        data[start + begin] |= 0x80
    else:
        data[start + begin : start + begin + length] = octal.rjust(length - 1, b"0") + b"\0"
    if rng.random() < 0.8:
        sign(data, start)


def set_type(rng: random.Random, data: bytearray, start: int) -> None:
    """Makes a member something else: a link, a sparse file, an extended header."""
    data[start + 156] = rng.choice(b"\x000123456789LKxXgSDMNVz")
    if rng.random() < 0.5:
        data[start + 157 : start + 257] = rng.choice([b"/etc/passwd", b"../0.png", b"0.png", b"a/0.png"]).ljust(
            100, b"\0"
        )
    if rng.random() < 0.3:
        data[start + 482] = rng.choice([0, 1])
    sign(data, start)


def pax_header(rng: random.Random) -> bytes:
    """An extended header with hostile records, as blocks."""
    values = [b"-1", b"9" * 30, rng.randbytes(20), b"x" * 300, b"1", b"%d" % 2**63, b"\x1b[31mred.png", b"../../up.png"]
    keys = [b"path", b"size", b"linkpath", b"GNU.sparse.major", b"GNU.sparse.size", b"hdrcharset", b"comment"]
    body = b""
    for _ in range(rng.randint(1, 5)):
        record = b" " + rng.choice(keys) + b"=" + rng.choice(values) + b"\n"
        length = len(record) + len(str(len(record))) + rng.choice([0, 0, 0, 1, -2, 10**6])
        body += str(length).encode() + record
    info = tarfile.TarInfo("header")
    info.type, info.size = rng.choice([b"x", b"L", b"K", b"g"]), len(body)
    return info.tobuf(tarfile.GNU_FORMAT) + body.ljust(-(-len(body) // 512) * 512, b"\0")


def mutate(rng: random.Random, data: bytearray, starts: list[int]) -> tuple[bytearray, bool]:
    """Changes a tar once; returns whether an image that is lost by it has to be said."""
    kind = rng.choice(["number", "number", "type", "pax", "zeros", "zeros", "cut", "bytes", "joined", "none"])
    start = rng.choice(starts)
    if kind == "number":
        set_number(rng, data, start)
    elif kind == "type":
        set_type(rng, data, start)
    elif kind == "pax":
        data[start:start] = pax_header(rng) * rng.choice([1, 1, 2, 3000])
    elif kind == "zeros":
        begin = rng.choice([start, rng.randrange(len(data))])
        end = min(len(data), begin + rng.choice([512, 1024, 1536, 4096, rng.randrange(1, 9000)]))
        data[begin:end] = bytes(end - begin)
        if not any(data[end:]):  # a member lost there looks like the end of the archive
            return data, False
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "bytes":
        for _ in range(rng.randint(1, 40)):
            data[start + rng.randrange(min(512, len(data) - start))] = rng.randrange(256)
    return data, kind in ("zeros", "cut", "joined", "none")


def bomb(rng: random.Random) -> tuple[bytes, str]:
    """A compressed tar that expands to a GiB of zeros, with a declared size that is small or as large."""
    info = tarfile.TarInfo(rng.choice(["photo.jpg", "data.bin"]))
    info.size = rng.choice([10, BOMB_BYTES, 2**33])
    head, part = info.tobuf(tarfile.GNU_FORMAT), bytes(2**24)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(part) + deflate.flush(zlib.Z_FULL_FLUSH)
    body = start + zeros * (BOMB_BYTES // len(part)) + deflate.flush()
    return b"\x1f\x8b\x08\0\0\0\0\0\2\3" + body + rng.randbytes(8), "tar.gz"


def make(rng: random.Random, folder: Path) -> Path:
    """Writes a mutated tar, and beside it what was in it."""
    if rng.random() < 0.01:
        data, suffix = bomb(rng)
        images: dict[str, bytes] = {}
        is_strict = False
    else:
        tar, images, starts = whole_tar(rng)
        is_strict = True
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if left := [start for start in starts if start + 512 <= len(tar)]:
                tar, strict = mutate(rng, tar, left)
                is_strict &= strict
        if rng.random() < 0.15:
            other, more, _ = whole_tar(rng, prefix="second-")
            tar, images = tar + other, images | more
        data, suffix = bytes(tar), "tar"
        if rng.random() < 0.35:
            suffix = rng.choice(list(PACK))
            packed = bytearray(PACK[suffix](data))
            if rng.random() < 0.3:
                packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
            data = bytes(packed)
    path = folder / f"shard.{suffix}"
    path.write_bytes(data)
    facts = {"strict": is_strict, "images": {name: data.hex() for name, data in images.items()}}
    (folder / "expected.json").write_text(json.dumps(facts))
    return path


def prepare() -> None:
    """Imports the library, and keeps its notes from the terminal."""
    import stellar_hub.data.streams  # noqa: F401

    logging.disable(logging.WARNING)


def attempt(path: Path) -> str:
    """Reads a tar as a source and as a stream, and compares the images with what was in it."""
    from stellar_hub.data.sources import open_source
    from stellar_hub.data.streams import DamagedShardError, open_stream

    expected = json.loads((path.parent / "expected.json").read_text())
    outcome, found = "whole", None
    if path.suffix == ".tar":
        try:
            source: Any = open_source(path)
        except ValueError as error:
            refusal(error, path.name)
            outcome = "refused"
        else:
            found = [(str(image), image.data) for image in source]
            said = [*source.damaged, *source.notes, *(image.error for image in source if image.error)]
            compare(expected, found, said)
            outcome = "damaged" if source.damaged else "whole"
    streamed: list[tuple[str, bytes]] = []
    said = []
    stream = open_stream([f"stream:{path}"])
    try:
        for image in stream.read(0):
            streamed.append((str(image), image.data))
            said += [image.error] if image.error else []
    except DamagedShardError as error:
        refusal(error, path.name)
        outcome = "damaged"
        said.append(str(error))
    compare(expected, streamed, [*said, *getattr(stream, "_noted", ())])
    if found is not None and found != streamed:
        raise SilentDifference(f"the source has {[n for n, _ in found]}, the stream {[n for n, _ in streamed]}")
    for text in said:
        with contextlib.suppress(UnicodeError):
            refusal(ValueError(text))
    return outcome


def compare(expected: dict[str, Any], found: list[tuple[str, bytes]], said: list[str]) -> None:
    """Raises SilentDifference if an image is missing and nothing is said."""
    names = {name.partition("/")[2] for name, _ in found}
    missing = [name for name in expected["images"] if name not in names]
    if expected["strict"] and missing and not said:
        raise SilentDifference(f"{missing} are missing, and nothing is said")
