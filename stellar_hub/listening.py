"""Addresses that servers listen on: opening a port, and who reaches it."""

import re
import socket

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, as clients write them in the Host header


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int) -> socket.socket:
    """Opens the port.

    Args:
        host: Address or name to bind to.
        port: Port, or 0 for any free one.

    Raises:
        OSError: if the port is taken, or the host is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
        # Else an answer in two pieces waits some 40 ms for the client's acknowledgement of the first one: asyncio sets
        # this for sockets that it makes itself. Connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror or error}): pass another --port or --host"
        ) from error


def address_of(listening: socket.socket) -> str:
    """Returns the address by which this machine reaches a socket that listens, such as "http://127.0.0.1:8000"."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def name_in_host(header: bytes) -> str:
    """Returns the name in a Host header, without the port."""
    return re.sub(r":\d*$", "", header.decode("latin-1")).lower()
