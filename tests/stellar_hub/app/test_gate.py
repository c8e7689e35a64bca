"""The gate before gradio."""

import asyncio
import json
from typing import Any

import pytest

from stellar_hub.app.gate import MAX_BODY, Gate

ASSET = "/assets/index-Dp_h.js"


def ask(
    path: str, method: str = "GET", body: bytes = b"", host: bytes = b"127.0.0.1:7860", length: bytes | None = None
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Asks an application behind the gate that gives back the body; returns status, body and headers."""
    sent: list[dict[str, Any]] = []
    parts = [body[:10], body[10:]]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = b""
        while True:
            message = await receive()
            got += message["body"]
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": got})

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host), (b"content-length", str(len(body)).encode() if length is None else length)]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Gate(app, 1000, ["127.0.0.1", "localhost"])(scope, receive, send))
    return sent[0]["status"], sent[-1]["body"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/config", ASSET, "/gradio_api/queue/data", "/theme.css", "/static/js/a.min.js"])
def test_gate__lets_through_what_the_page_needs(path: str) -> None:
    assert ask(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://example.org",
        "/monitoring",
        "/gradio_api/runs",
        "/assets/../../secret",
        "/docs",
        "/openapi.json",
        "/gradio_api/custom_component/a/client/component/x",
    ],
)
def test_gate__has_nothing_else(path: str) -> None:
    assert ask(path)[0] == 404


def test_gate__knows_no_other_method() -> None:
    assert ask("/", "PUT")[0] == 404
    assert ask("/gradio_api/component_server", "POST", b"{}")[0] == 404


def test_gate__hands_on_a_body_as_it_was() -> None:
    body = json.dumps({"data": ["x" * 50]}).encode()
    assert ask("/gradio_api/queue/join", "POST", body)[:2] == (200, body)
    assert ask("/gradio_api/upload", "POST", b"any bytes of a form")[:2] == (200, b"any bytes of a form")


def test_gate__bounds_the_size_of_requests() -> None:
    assert ask("/gradio_api/queue/join", "POST", b'"' + b"x" * MAX_BODY + b'"')[0] == 413
    assert ask("/gradio_api/queue/join", "POST", b'"' + b"x" * MAX_BODY + b'"', length=b"5")[0] == 413
    assert ask("/gradio_api/upload", "POST", b"x", length=b"1000000")[0] == 413
    assert ask("/gradio_api/upload", "POST", b"x", length=b"")[0] == 411
    assert ask("/gradio_api/upload", "POST", b"x", length=b"-1")[0] == 411


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"path": "http://a/b", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "\\u0067radio.FileData"}}]}',
        b"no json",
        b"[" * 50_000,
    ],
)
def test_gate__refuses_a_body_that_names_a_file_or_is_no_json(body: bytes) -> None:
    assert ask("/gradio_api/queue/join", "POST", body)[0] == 400


@pytest.mark.parametrize(
    ("host", "status"), [(b"localhost:1", 200), (b"127.0.0.1", 200), (b"evil.example:7860", 421), (b"", 421)]
)
def test_gate__answers_to_its_names_alone(host: bytes, status: int) -> None:
    assert ask("/", host=host)[0] == status


def test_gate__tells_browsers_to_ask_no_other_host() -> None:
    for path in ("/", "/nothing"):
        policy = ask(path)[2][b"content-security-policy"].decode()
        assert "default-src 'self'" in policy
        assert "http" not in policy
