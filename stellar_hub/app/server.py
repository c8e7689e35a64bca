"""Serving the page: one process, its own folder for uploads, and an end that leaves nothing behind."""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from stellar_hub.app.desk import Desk
from stellar_hub.app.gate import Gate
from stellar_hub.app.page import Page, style
from stellar_hub.app.parts import gradio
from stellar_hub.extras import require
from stellar_hub.listening import LOCAL_NAMES, address_of, is_local, listen
from stellar_hub.modeling.limits import max_allowed

SECONDS_TO_END = 1  # that open connections get: those of browsers never end by themselves
FOLDER_VARIABLE = "GRADIO_TEMP_DIR"


def launch_options() -> dict[str, Any]:
    """Returns the options of gradio with which the page is launched: its looks, its limits, and nothing else."""
    return {
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "show_error": False,
        "max_file_size": max_allowed("image_bytes"),
        **style(),
    }


def application(desk: Desk, hosts: tuple[str, ...] | None = LOCAL_NAMES) -> Any:
    """Returns the page as an ASGI application, behind the gate.

    Args:
        desk: What the page does.
        hosts: Names by which it may be called; None allows all.
    """
    gr, fastapi = gradio(), require("fastapi", "app", "the demo page")
    api = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(api, Page(desk).blocks, path="", **launch_options())
    return Gate(api, max_allowed("image_bytes"), hosts)


@contextmanager
def uploads_in(parent: Path | None = None) -> Iterator[Path]:
    """Makes a folder for uploads that is deleted at the end, with all that is in it.

    Args:
        parent: Folder to make it in; None takes that of the system.
    """
    before = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="stellar-hub-app-", dir=parent, ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(FOLDER_VARIABLE)
            if before is not None:
                os.environ[FOLDER_VARIABLE] = before


def serve(desk: Desk, host: str = "127.0.0.1", port: int = 7860, ready: Callable[[str], None] | None = None) -> None:
    """Serves the page until the process is interrupted.

    Args:
        desk: What the page does.
        host: Address or name to bind to. On 127.0.0.1 only this machine sees the page.
        port: Port, or 0 for any free one.
        ready: Function that gets the address as soon as browsers may open it.

    Raises:
        ImportError: if gradio is not installed.
        KeyboardInterrupt: when Ctrl-C ended it; everything is closed and deleted by then.
        OSError: if the port is taken.
    """
    gradio()
    uvicorn = require("uvicorn", "app", "the demo page")
    with listen(host, port) as listening, uploads_in():
        address = address_of(listening)
        app = application(desk, (*LOCAL_NAMES, host) if is_local(host) else None)
        config = uvicorn.Config(
            app, log_level=logging.ERROR, lifespan="on", timeout_graceful_shutdown=SECONDS_TO_END, access_log=False
        )
        server = uvicorn.Server(config)
        _when_started(server, lambda: None if ready is None else ready(address))
        with _terminated_as_interrupted():
            server.run(sockets=[listening])


def _when_started(server: Any, tell: Callable[[], None]) -> None:
    """Calls a function when a server has started, and keeps it quiet at its end, when browsers are still connected."""
    startup, shutdown = server.startup, server.shutdown

    async def told(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        if server.started:
            tell()

    async def quiet(*args: Any, **kwargs: Any) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        await shutdown(*args, **kwargs)

    server.startup, server.shutdown = told, quiet


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C end the block with KeyboardInterrupt, so that the folder of uploads is deleted.

    Ctrl-C does this by itself, except in processes that a shell started in the background, which ignore it. The server
    hears it there, too, and the command has to say how it ended.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
