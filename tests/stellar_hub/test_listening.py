"""Addresses that servers listen on."""

import socket

import pytest

from stellar_hub.listening import address_of, is_local, listen, name_in_host


def test_listen__says_that_a_port_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match="another --port"):
            listen("127.0.0.1", port)


def test_is_local__is_true_for_this_machine_alone() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("header", "name"), [(b"LocalHost:80", "localhost"), (b"[::1]:8000", "[::1]"), (b"[::1]", "[::1]"), (b"", "")]
)
def test_name_in_host__leaves_the_port_out(header: bytes, name: str) -> None:
    assert name_in_host(header) == name


def test_connection__sends_small_pieces_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()[:2]):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
