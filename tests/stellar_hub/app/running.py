"""A page that runs, for tests: in a thread of this process, on a free port."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stellar_hub.app.desk import Desk
from stellar_hub.app.server import serve


@contextmanager
def running(desk: Desk, uvicorn: Any) -> Iterator[str]:
    """Serves a desk; gives the address."""
    servers: list[Any] = []
    addresses: list[str] = []
    ready = threading.Event()

    class Remembered(uvicorn.Server):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            servers.append(self)

    def tell(address: str) -> None:
        addresses.append(address)
        ready.set()

    kept, uvicorn.Server = uvicorn.Server, Remembered
    thread = threading.Thread(target=serve, args=(desk, "127.0.0.1", 0, tell), daemon=True)
    try:
        thread.start()
        assert ready.wait(120)
        yield addresses[0]
    finally:
        uvicorn.Server = kept
        for server in servers:
            server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def uploads_folder() -> Path:
    """The folder of uploads of the page that runs."""
    return Path(os.environ["GRADIO_TEMP_DIR"])
