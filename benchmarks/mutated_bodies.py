"""Valid requests to `stellar-hub serve`, and seeded mutations of them, for `benchmarks/serving.py`."""

import base64
import copy
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

BOUNDARY = "----stellar"
STRANGE = (None, True, -1, 0, 1e308, 10**40, float("nan"), "", "x" * 5000, "\ud800", [], {}, [[]], [[1, "a"]], [None])
ADDRESSES = ("https://example.org/a.jpg", "file:///etc/passwd", "/etc/passwd", "data:image/png,abc", "data:;base64,")
KINDS = ("application/json", "image/jpeg", "multipart/form-data", "application/safetensors", "text/plain; x=\xff", "")


@dataclass(frozen=True)
class Call:
    """A request: its path, its media type, and its body."""

    path: str
    kind: str
    body: bytes


def image_files() -> list[bytes]:
    """Returns small images of several formats, and two that claim to be large: one is within the limit, one is not."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    files = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files.append(buffer.getvalue())
    return [*files, huge_png(4000, 4000), huge_png(60_000, 60_000)]


def huge_png(width: int, height: int) -> bytes:
    """Returns a PNG of some bytes whose header says that it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def form(files: list[bytes]) -> Call:
    """Returns images as the files of a form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{number}.jpg"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return Call("/encode", f"multipart/form-data; boundary={BOUNDARY}", body)


def valid_calls(hidden_size: int = 192, patches: int = 256, tokens: int = 16) -> list[Call]:
    """Returns valid requests to every endpoint and of every media type.

    Args:
        hidden_size: Width of the model.
        patches: Number of patches of an image.
        tokens: Number of tokens.
    """
    files = image_files()
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in files[:3]]
    rng = np.random.default_rng(1)
    semantics = rng.standard_normal((1, tokens, hidden_size), dtype=np.float32)
    localization = rng.dirichlet(np.ones(tokens), (1, patches)).astype(np.float32)
    side = round(patches**0.5)
    code = {"S": semantics[0].round(3).tolist(), "L": localization[0].round(3).tolist(), "grid_size": [side, side]}
    file = save({"semantics": semantics, "localization": localization}, {"grid_size": json.dumps([side, side])})
    texts: list[tuple[str, Any]] = [
        ("/encode?outputs=S,cls", {"images": urls[:2]}),
        ("/v1/embeddings", {"input": urls[0], "model": "stellar-tiny", "encoding_format": "base64"}),
        ("/embeddings", {"input": urls}),
        ("/decode", code),
        ("/decode", {"data": [code]}),
    ]
    calls = [Call("/encode", "image/jpeg", data) for data in files]
    calls += [form(files[:1]), form(files[:3]), Call("/decode", "application/safetensors", file)]
    return [*calls, *(Call(path, "application/json", json.dumps(value).encode()) for path, value in texts)]


def _flipped(rng: random.Random, call: Call) -> Call:
    data = bytearray(call.body)
    for _ in range(rng.randint(1, 8)):
        last = len(data) if rng.random() < 0.5 else min(len(data), 400)
        data[rng.randrange(last)] = rng.choice((0, 34, 44, 91, 123, 127, 255, rng.randrange(256)))
    return Call(call.path, call.kind, bytes(data))


def _cut(rng: random.Random, call: Call) -> Call:
    return Call(call.path, call.kind, call.body[: rng.randrange(len(call.body))])


def _repeated(rng: random.Random, call: Call) -> Call:
    start = rng.randrange(len(call.body))
    part = call.body[start : start + rng.randint(1, 2000)]
    return Call(call.path, call.kind, call.body[:start] + part * rng.randint(2, 20) + call.body[start:])


def _of_another_kind(rng: random.Random, call: Call) -> Call:
    return Call(call.path, rng.choice(KINDS), call.body)


def _elsewhere(rng: random.Random, call: Call) -> Call:
    path = rng.choice(("/encode", "/decode", "/embeddings", "/encode?outputs=Z", "/encode?outputs=" + "S," * 500))
    return Call(path, call.kind, call.body)


def _strange_values(rng: random.Random, call: Call) -> Call:
    """Replaces values of JSON by others, at any depth; of other bodies it flips bytes."""
    if call.kind != "application/json":
        return _flipped(rng, call)
    value = json.loads(call.body)
    for _ in range(rng.randint(1, 3)):
        holder, key = value, rng.choice(list(value))
        while isinstance(holder[key], list | dict) and holder[key] and rng.random() < 0.7:
            holder = holder[key]
            key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key] = copy.deepcopy(rng.choice((*STRANGE, *ADDRESSES)))
    if rng.random() < 0.1:
        value[rng.choice(("dimensions", "S", "x\n"))] = copy.deepcopy(rng.choice(STRANGE))
    return Call(call.path, call.kind, json.dumps(value).encode())


def _nested(rng: random.Random, call: Call) -> Call:
    mark = rng.choice((b"[", b'{"a":', b'{"images":['))
    return Call(call.path, "application/json", mark * rng.choice((10, 1000, 100_000)))


MUTATIONS: tuple[Callable[[random.Random, Call], Call], ...] = (
    *(_flipped, _flipped, _cut, _repeated, _of_another_kind, _elsewhere),
    *(_strange_values, _strange_values, _strange_values, _nested),
)


def mutated(seed: int, number: int, calls: list[Call]) -> Call:
    """Returns one mutated request, made from the seed and its number alone."""
    rng = random.Random(f"{seed}/{number}")
    call = rng.choice(calls)
    for _ in range(rng.choice((1, 1, 1, 2))):
        if call.body:
            call = rng.choice(MUTATIONS)(rng, call) if _is_whole(call) else _flipped(rng, call)
    return call


def _is_whole(call: Call) -> bool:
    """Whether the JSON of a request can still be read, so that its values can be replaced."""
    if call.kind != "application/json":
        return True
    try:
        return isinstance(json.loads(call.body), dict)
    except (ValueError, RecursionError):
        return False
