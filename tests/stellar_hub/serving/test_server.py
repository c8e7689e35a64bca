"""The server as it listens: keys, addresses, and its end."""

import http.client
import socket
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.server import KEY_VARIABLE, GracefulServer, check_access, key_of_environment

from .conftest import Make, image_file, slow_down
from .running import running


@dataclass(eq=False)
class Connection:
    """What the server knows of a connection of uvicorn."""

    cycle: Any
    transport: Any


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_check_access__needs_a_key_for_others() -> None:
    check_access("127.0.0.1", None, False)
    check_access("0.0.0.0", "key", False)
    check_access("0.0.0.0", None, True)
    with pytest.raises(ValueError, match=KEY_VARIABLE):
        check_access("0.0.0.0", None, False)


@pytest.mark.parametrize("key", ["", " ", "a\n", "a ", "schlüssel"])
def test_key_of_environment__refuses_what_is_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of_environment() is None
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ValueError, match=KEY_VARIABLE):
        key_of_environment()


def test_serve__answers_what_it_has_accepted_before_it_ends(make_service: Make) -> None:
    service = make_service()
    slow_down(service, 1)
    found: list[Any] = []
    with running(service) as address:
        host = address.removeprefix("http://")

        def call() -> None:
            connection = http.client.HTTPConnection(host, timeout=120)
            connection.request("POST", "/encode", image_file())
            answer = connection.getresponse()
            found.append((answer.status, answer.getheader("connection"), len(answer.read())))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        while service.num_accepted < 4:
            time.sleep(0.01)
    for thread in threads:
        thread.join(120)
    assert [(status, close) for status, close, _ in found] == [(200, "close")] * 4
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(host, timeout=5).connect()


def test_serve__refuses_other_names_and_wrong_http(make_service: Make) -> None:
    with running(make_service()) as address:
        host, port = address.removeprefix("http://").split(":")
        statuses = []
        for headers in ({}, {"Host": "example.org"}):
            connection = http.client.HTTPConnection(host, int(port), timeout=120)
            connection.request("GET", "/health", headers=headers)
            statuses.append(connection.getresponse().status)
            connection.close()
        with socket.create_connection((host, int(port)), timeout=120) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            first = raw.recv(100)
    assert statuses == [200, 421]
    assert first.startswith(b"HTTP/1.1 400")


def test_serve__closes_connections_that_send_no_request(make_service: Make) -> None:
    with running(make_service(timeout=0.5)) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as raw:
            raw.sendall(b"GET /health HTTP/1.1\r\n")
            assert raw.recv(100) == b""


def test_connection_that_does_not_read_its_answer__is_cut(make_service: Make) -> None:
    import uvicorn

    server = GracefulServer(uvicorn.Config(lambda: None), make_service(timeout=10))
    ended: list[str] = []
    transport = SimpleNamespace(close=lambda: ended.append("close"), abort=lambda: ended.append("abort"))
    connection = Connection(SimpleNamespace(response_complete=True), transport)
    server.server_state.connections.add(connection)
    for now in (0, 9, 11, 21):
        server._close_idle(now)
    assert ended == ["close", "abort"]


def test_second_signal__ends_at_once(make_service: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    server = GracefulServer(uvicorn.Config(lambda: None), make_service())
    server.handle_exit(15, None)
    assert server.should_exit
    assert not codes
    server.handle_exit(15, None)
    assert codes == [143]
