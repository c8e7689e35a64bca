"""A server that runs, for tests: in a thread of this process, on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def running(service: Any, **options: Any) -> Iterator[str]:
    """Serves a service; gives the address. At the end the server stops as a signal stops it."""
    from stellar_hub.serving import server

    servers: list[Any] = []
    addresses: list[str] = []
    left: list[int] = []
    ready = threading.Event()

    class Remembered(server.GracefulServer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            servers.append(self)

    def tell(address: str) -> None:
        addresses.append(address)
        ready.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "GracefulServer", Remembered)
        thread = threading.Thread(
            target=lambda: left.append(server.serve(service, port=0, ready=tell, **options)), daemon=True
        )
        thread.start()
        assert ready.wait(120)
        try:
            yield addresses[0]
        finally:
            servers[0].should_exit = True
            thread.join(120)
            assert left == [0]
