"""The gate before all endpoints: who may come in, and what is counted of everybody."""

import hmac
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from stellar_hub.listening import name_in_host
from stellar_hub.serving.answers import error_answer
from stellar_hub.serving.refusals import Refusal
from stellar_hub.serving.service import Service

OPEN = ("/health",)  # to everybody, for load balancers

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware that asks for the key, and counts requests.

    Args:
        app: The application behind it.
        service: The service, whose metrics it fills. When it stops, answers ask clients to close their connections.
        key: Key that requests must have as `Authorization: Bearer KEY`; None asks for none.
        hosts: Names by which the server may be called; None allows all. A server without a key allows the names of this
            machine, so that no site can lead a browser here under its own name.
        paths: Paths that are counted under their names; others are "other".
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        service: Service,
        key: str | None,
        hosts: Collection[str] | None,
        paths: Collection[str],
    ):
        self.app = app
        self.service = service
        self._key = None if key is None else key.encode()
        self._hosts = None if hosts is None else frozenset(hosts)
        self._paths = frozenset(paths)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
                if self.service.stopping:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            refusal = self._refusal(scope)
            answer = self.app if refusal is None else error_answer(refusal)
            await answer(scope, receive, sent)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self.service.metrics.request(path, status, time.perf_counter() - began)

    def _refusal(self, scope: Message) -> Refusal | None:
        """Returns why a request is refused before its body is read, or None."""
        headers = dict(scope["headers"])
        if self._hosts is not None and name_in_host(headers.get(b"host", b"")) not in self._hosts:
            return Refusal(
                421, "call this server as 127.0.0.1 or localhost; for other names, start it with a key or a --host"
            )
        if self._key is None or scope["path"] in OPEN:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key):
            return None
        return Refusal(
            401, "the key is missing or wrong: send it as Authorization: Bearer KEY", {"www-authenticate": "Bearer"}
        )
