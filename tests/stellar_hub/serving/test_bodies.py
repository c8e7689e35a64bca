"""Bodies: limits before memory, JSON and forms."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.bodies import BODIES_AT_ONCE, Bodies, Body, check_keys, parse_form, parse_json
from stellar_hub.serving.refusals import Refusal


class Sent:
    """A request as `Bodies` sees it."""

    def __init__(self, *chunks: bytes, pause: float = 0, **headers: str):
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.chunks = chunks
        self.pause = pause
        self.num_read = 0

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            await asyncio.sleep(self.pause)
            self.num_read += 1
            yield chunk


def read(bodies: Bodies, request: Any, seconds: float = 5) -> Body:
    async def reading() -> Body:
        async with bodies.read(request, seconds) as body:
            assert bodies.num_bytes == len(body.data)
            return body

    return asyncio.run(reading())


def test_read__gives_the_bytes_and_the_kind() -> None:
    bodies = Bodies()
    body = read(bodies, Sent(b"ab", b"c", content_type="Image/JPEG; q=1"))
    assert (body.data, body.kind) == (b"abc", "image/jpeg")
    assert bodies.num_bytes == 0


@pytest.mark.parametrize(
    "request_",
    [Sent(b"x" * 11, content_length="11"), Sent(b"x" * 6, b"x" * 6, b"x"), Sent(b"", content_length="9" * 15)],
)
def test_read__refuses_a_large_body_before_it_is_in_memory(request_: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_BYTES", "10")
    bodies = Bodies()
    with pytest.raises(Refusal, match="STELLAR_HUB_MAX_REQUEST_BYTES") as caught:
        read(bodies, request_)
    assert caught.value.status == 413
    assert request_.num_read < 3
    assert bodies.num_bytes == 0


def test_read__bounds_all_bodies_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_BYTES", "10")
    bodies = Bodies()
    bodies.num_bytes = 10 * BODIES_AT_ONCE - 5
    with pytest.raises(Refusal) as caught:
        read(bodies, Sent(b"x" * 6))
    assert caught.value.status == 429
    assert bodies.num_bytes == 10 * BODIES_AT_ONCE - 5


def test_read__refuses_slow_and_compressed_bodies() -> None:
    with pytest.raises(Refusal) as slow:
        read(Bodies(), Sent(b"a", pause=5), 0.01)
    with pytest.raises(Refusal) as compressed:
        read(Bodies(), Sent(b"a", content_encoding="gzip"))
    assert (slow.value.status, compressed.value.status) == (408, 415)


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"{", b"\xff", b'{"a": 1e', b"[" * 100_000, b'{"a":' * 5000, b'{"a": [' + b"1," * 5000]
)
def test_parse_json__refuses_in_a_sentence(text: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse_json(Body(text, "application/json", ""), 4000)


def test_parse_json__gives_an_object_and_its_keys_are_checked() -> None:
    value = parse_json(Body(json.dumps({"a": [1, 2]}).encode(), "application/json", ""), 10)
    assert value == {"a": [1, 2]}
    with pytest.raises(ValueError, match="it takes b"):
        check_keys(value, ("b",))


def form(*parts: str, boundary: str = "xyz", end: str = "--xyz--\r\n") -> Body:
    text = "".join(f"--xyz\r\nContent-Disposition: form-data; {part}\r\n" for part in parts) + end
    return Body(text.encode(), "multipart/form-data", f"multipart/form-data; boundary={boundary}")


def test_parse_form__gives_the_files_with_names_on_one_line() -> None:
    found = parse_form(form('name="a"; filename="b\tc.png"\r\n\r\nab\r\ncd', 'name="a"; filename=""\r\n\r\nx'))
    assert found == [("b c.png", b"ab\r\ncd"), ("a", b"x")]


@pytest.mark.parametrize(
    "body",
    [
        form('name="outputs"\r\n\r\nS'),
        form('nome="a"; filename="b"\r\n\r\nab'),
        form('name="a"; filename="b"\r\n\r\nab', boundary="other"),
        Body(b"x", "multipart/form-data", "multipart/form-data"),
        Body(b"x" * 100, "multipart/form-data", 'multipart/form-data; boundary=""'),
        form(*['name="a"; filename="b"\r\n\r\nab'] * 100),
    ],
)
def test_parse_form__refuses_in_a_sentence(body: Body) -> None:
    with pytest.raises(ValueError, match=r"form|file"):
        parse_form(body)
