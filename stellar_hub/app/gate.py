"""The gate before gradio: it lets through what the page asks for, of a bounded size, and nothing else.

gradio has more than the page needs: it serves files by their paths, fetches addresses that a request names, and keeps
runs. Here these are not found.
"""

import json
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from stellar_hub.listening import name_in_host

MAX_BODY = 2**16  # bytes of a request that is not an upload
MAX_FORM = 2**14  # bytes that an upload has beside its file
NAMES_A_FILE = b'"gradio.FileData"'  # gradio fetches or opens what an object of this type names

# The page, its files, and the calls that it makes.
_GET = re.compile(
    r"/(config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static)/[\w./-]+)?"
    r"|/gradio_api/(queue/data|heartbeat/\w+|theme\.css|info/?|startup-events)"
)
_POST = re.compile(r"/gradio_api/(queue/join|upload|reset|cancel)/?")

# A browser then asks no other host for anything, whatever is in the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware around gradio.

    Args:
        app: The application behind it.
        max_upload: Size of an uploaded file in bytes.
        hosts: Names by which the page may be called; None allows all. A page for this machine alone allows the names
            of this machine, so that no other site can lead a browser here under its own name.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], max_upload: int, hosts: Collection[str] | None = None):
        self.app = app
        self.max_upload = max_upload
        self.hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        status, body = self._refusal(scope), None
        if status is None and scope["method"] == "POST" and not _is_upload(scope):
            body = await _read(receive)
            status = 413 if body is None else None if _is_plain(body) else 400
        if status is not None:
            await _refuse(send, status)
            return
        await self.app(scope, receive if body is None else _replay(body, receive), _with_headers(send))

    def _refusal(self, scope: Message) -> int | None:
        """Returns the status with which a request is refused before its body is read, or None."""
        method, path = scope["method"], scope["path"]
        allowed = _POST if method == "POST" else _GET if method in ("GET", "HEAD") else None
        headers = dict(scope["headers"])
        if self.hosts is not None and name_in_host(headers.get(b"host", b"")) not in self.hosts:
            return 421
        if allowed is None or not allowed.fullmatch(path) or ".." in path:
            return 404
        if method == "POST":
            length = headers.get(b"content-length", b"")
            if not (length.isdigit() and len(length) < 20):
                return 411
            if int(length) > (self.max_upload + MAX_FORM if _is_upload(scope) else MAX_BODY):
                return 413
        return None


def _is_upload(scope: Message) -> bool:
    return str(scope["path"]).rstrip("/").endswith("/upload")


async def _read(receive: Receive) -> bytes | None:
    """Returns the body of a request, or None if it is too large or cut off."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request" or len(body := body + message.get("body", b"")) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return body


def _is_plain(body: bytes) -> bool:
    """Whether a body is JSON that names no file; escapes in the JSON hide none."""
    try:
        return NAMES_A_FILE not in json.dumps(json.loads(body)).encode()
    except (ValueError, RecursionError):
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a channel that gives a body that was read, and then what follows."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return given.pop() if given else await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    """Returns a channel that adds our headers to an answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sent


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *HEADERS]})
    await send({"type": "http.response.body", "body": b""})
