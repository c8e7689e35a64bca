"""The folder for a Hugging Face Space, started offline."""

import importlib.util
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

pytest.importorskip("gradio")
SPACE = Path(__file__).parents[2] / "examples" / "space"


def load_app(monkeypatch: pytest.MonkeyPatch, spaces: Any = None) -> Any:
    """The app's module, with or without the package of ZeroGPU."""
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_front_matter__is_what_the_hub_reads() -> None:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    front = YAML(typ="safe").load(text.split("---")[1])
    assert front["sdk"] == "gradio"
    assert (SPACE / front["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", front["sdk_version"])
    assert len(front["short_description"]) <= 60
    assert (SPACE / "requirements.txt").read_text().strip() == "stellar_hub[app]"


def test_app__borrows_a_gpu_where_spaces_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[str] = []

    def gpu(duration: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            wrapped.append(function.__name__)
            return function

        return mark

    from stellar_hub.app import Models

    monkeypatch.setattr(Models, "load", lambda *_: None)  # no GPU is here
    load_app(monkeypatch, types.SimpleNamespace(GPU=gpu))
    assert wrapped == ["_encode_here", "_decode_here"]


@pytest.mark.slow
def test_app__starts_offline_and_answers(tmp_path: Path) -> None:
    """As the Hub starts it: `python app.py`, with the address in the environment."""
    from stellar_hub.listening import listen

    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=SPACE, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        page = wait_for(f"http://127.0.0.1:{port}/", process)
        assert "STELLAR tokens" in page
    finally:
        process.kill()
        process.communicate()


def wait_for(address: str, process: "subprocess.Popen[str]") -> str:
    """The page at an address, as soon as it is there."""
    import time

    import httpx

    for _ in range(600):
        assert process.poll() is None, process.communicate()[1]
        try:
            return httpx.get(address, trust_env=False, timeout=30).text
        except httpx.ConnectError:
            time.sleep(0.2)
    raise AssertionError("the app did not start")
