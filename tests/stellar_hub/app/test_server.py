"""The page as it is served: offline, for several users, and to its end."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.app.desk import Desk
from stellar_hub.app.models import Models
from stellar_hub.app.page import ADDED
from stellar_hub.app.server import uploads_in

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

from .client import Client  # noqa: E402  # httpx comes with gradio
from .running import running, uploads_folder  # noqa: E402

DECODING, MESSAGE = 4, 1  # places among the outputs


@pytest.fixture(scope="module")
def address(models: Models) -> Iterator[str]:
    """The address of a page that runs, in a process that reaches no other machine."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, to: Any) -> None:
        assert self.family == socket.AF_UNIX or to[0] in ("127.0.0.1", "::1", "localhost"), f"asked for {to}"
        connect(self, to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_here)
        with running(Desk(models), uvicorn) as address:
            yield address


def message_of(outputs: list[Any]) -> str:
    """The sentence that is shown, or ""."""
    shown = outputs[MESSAGE]
    return shown.get("value") or "" if isinstance(shown, dict) else shown or ""


def test_page__asks_no_other_host(address: str) -> None:
    client = Client(address)
    page = client.http.get("/").text
    tags = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]+)\"", page)
    assert tags
    assert not [tag for tag in tags if re.match(r"(https?:)?//", tag)]
    assert "fonts.googleapis.com" not in page + client.http.get("/theme.css").text
    assert client.http.get("/static/js/iframeResizer.contentWindow.min.js").status_code == 200
    assert "default-src 'self'" in client.http.get("/").headers["content-security-policy"]


def test_page__serves_no_file_of_the_machine(address: str, tmp_path: Path) -> None:
    client = Client(address)
    for path in ("/etc/hostname", str(Path("pyproject.toml").resolve()), str(uploads_folder())):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            assert client.http.get(route + path).status_code == 404
    assert client.http.get("/static/../../../etc/hostname").status_code == 404


def test_two_clients__do_not_mix(address: str, photo: Path) -> None:
    one, other = Client(address), Client(address)
    first, second = one.load(), other.load()
    assert first[DECODING]["image"] == second[DECODING]["image"]
    uploaded = one.upload(photo.name, photo.read_bytes())
    assert "coffee" in uploaded[2]["caption"]
    assert "cat" in other.do("maps", "select", {"key": "1"})[2]["alt"]
    dropped = one.do("maps", "select", {"key": "0"}), one.do("drop", "click")
    assert message_of(dropped[1]) == ""
    untouched = other.do("maps", "select", {"key": "2"})
    assert untouched[DECODING]["image"] == first[DECODING]["image"]
    assert dropped[1][DECODING]["image"] != uploaded[DECODING]["image"]


def test_damaged_upload__is_a_sentence_and_the_page_goes_on(address: str, photo: Path) -> None:
    client = Client(address)
    client.load()
    photo.write_bytes(b"GIF89a" + b"\xff" * 100)
    assert "cannot be read" in message_of(client.upload(photo.name, photo.read_bytes()))
    assert not list(uploads_folder().rglob("*.jpg"))
    assert client.do("examples", "select", {"key": "petra.jpg"})[2]["alt"] == "petra.jpg"


@pytest.mark.parametrize(
    ("part", "event", "data"),
    [
        ("upload", "upload", {"name": "x", "file": "/etc/hostname"}),
        ("examples", "select", {"key": "../../etc/passwd"}),
        ("examples", "select", None),
        ("photograph", "select", {"row": "x", "column": None}),
        ("photograph", "release", {"row": 1, "column": 1, "rows": 1e300, "columns": 0}),
        ("maps", "select", {"key": "99"}),
        ("transplant", "click", None),
    ],
)
def test_hostile_event__is_a_sentence(address: str, part: str, event: str, data: Any) -> None:
    client = Client(address)
    client.load()
    values = (ADDED,) if part == "transplant" else ()
    assert message_of(client.do(part, event, data, values))


def test_uploads_in__leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    with uploads_in(tmp_path) as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        (folder / "x").write_text("x")
    assert os.environ["GRADIO_TEMP_DIR"] == "before"
    assert not list(tmp_path.iterdir())


def _as_in_the_background() -> None:
    """Ignores Ctrl-C, as a shell lets the commands that it starts in the background do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command__ends_cleanly_when_it_is_interrupted(number: int, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stellar_hub", "app", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, preexec_fn=_as_in_the_background, **pipes)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        assert list(tmp_path.glob("stellar-hub-app-*"))
        client = Client(line.split("at ")[1].split()[0])
        client.load()
        with client.http.stream("GET", f"/gradio_api/heartbeat/{client.session}"):  # as the window of a browser does
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("stellar-hub-app-*"))
