"""Serving over HTTP with uvicorn, until a signal: then nothing new is accepted, and what was accepted is answered."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

from stellar_hub.extras import require
from stellar_hub.listening import LOCAL_NAMES, address_of, is_local, listen
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.serving.endpoints import application
from stellar_hub.serving.service import Service

KEY_VARIABLE = "STELLAR_HUB_API_KEY"
MAX_HEADER = 2**15  # bytes of the head of a request
MAX_CONNECTIONS = 1024
SECONDS_TO_ARRIVE = 0.3  # that requests get which are on their way when the server stops

_uvicorn: Any = require("uvicorn", "serve", "the server")


def key_of_environment() -> str | None:
    """Returns the key that requests must have, or None if the environment has none.

    Raises:
        ValueError: if the variable is there and is no key.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        return None
    if not key.strip() or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ValueError(
            f"the environment variable {KEY_VARIABLE} must be a printable ASCII text without spaces around it: "
            "set it to a long random text, or unset it"
        )
    return key


def check_access(host: str, key: str | None, without_key: bool) -> None:
    """Raises ValueError if others would reach a server that asks for no key, unless that is what is wanted."""
    if not is_local(host) and key is None and not without_key:
        raise ValueError(
            f"everybody who reaches {one_line(host, 100)} could use this server: set the environment variable "
            f"{KEY_VARIABLE} to a key, or pass --without-key (without_key=True) if that is meant"
        )


class GracefulServer(_uvicorn.Server):
    """uvicorn's server, which answers what it has accepted before it ends.

    Args:
        config: uvicorn's configuration.
        service: What it serves.
        ready: Function that is called when it accepts requests.
    """

    should_exit: bool

    def __init__(self, config: Any, service: Service, ready: Callable[[], None] = lambda: None):
        super().__init__(config)
        self.service = service
        self.num_abandoned = 0
        self._ready = ready
        self._idle: dict[Any, tuple[Any, float]] = {}  # connections without a whole request, and since when

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and says that it has."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Looks after the connections once a second; returns whether to stop."""
        if counter % 10 == 0:
            self._close_idle(asyncio.get_running_loop().time())
        return bool(await super().on_tick(counter))

    def _close_idle(self, now: float) -> None:
        """Closes connections that take longer than a request may to send the head of one.

        One that is still there after twice that time does not read its answer: what is left of it is thrown away.
        """
        idle = [each for each in self.server_state.connections if each.cycle is None or each.cycle.response_complete]
        before, self._idle = self._idle, {}
        for connection in idle:
            cycle, since = before.get(connection, (None, now))
            self._idle[connection] = (connection.cycle, since if cycle is connection.cycle else now)
            waited = now - self._idle[connection][1]
            if waited > 2 * self.service.settings.timeout:
                connection.transport.abort()
            elif waited > self.service.settings.timeout:
                connection.transport.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends gracefully at the first signal, and at once at the second. No signal is raised again afterwards."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port, answers what has arrived or is on its way, and refuses what is left when time is over."""
        self.service.stopping = True
        await asyncio.sleep(0)  # connections that wait at the port are taken in
        for server in self.servers:
            server.close()
        await asyncio.sleep(SECONDS_TO_ARRIVE)
        seconds = self.service.settings.shutdown_timeout
        timer = asyncio.get_running_loop().call_later(seconds, self._abandon)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _abandon(self) -> None:
        self.num_abandoned += self.service.abandon()


def serve(
    service: Service,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    without_key: bool = False,
    ready: Callable[[str], None] | None = None,
) -> int:
    """Serves until the process gets SIGINT or SIGTERM, and then answers what it has accepted.

    Args:
        service: What the server does.
        host: Address or name to bind to. On 127.0.0.1 only this machine reaches the server.
        port: Port, or 0 for any free one.
        key: Key that requests must have as `Authorization: Bearer KEY`; None takes the one in the environment variable
            STELLAR_HUB_API_KEY, if it is set.
        without_key: Whether others may reach a server that asks for no key.
        ready: Function that gets the address as soon as requests are accepted.

    Returns:
        The number of images that it had accepted and did not answer, because `shutdown_timeout` was over.

    Raises:
        ImportError: if a library of the extra `serve` is not installed.
        OSError: if the port is taken.
        ValueError: if others would reach a server that asks for no key.
    """
    key = key_of_environment() if key is None else key
    check_access(host, key, without_key)
    hosts = (*LOCAL_NAMES, host) if is_local(host) and key is None else None
    with listen(host, port) as listening:
        address = address_of(listening)
        config = _uvicorn.Config(
            application(service, key, hosts),
            http="h11",  # it bounds the head of a request
            h11_max_incomplete_event_size=MAX_HEADER,
            ws="none",
            lifespan="on",
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(service.settings.shutdown_timeout) + 2,
        )
        server = GracefulServer(config, service, lambda: None if ready is None else ready(address))
        server.run(sockets=[listening])
    return server.num_abandoned
