"""`stellar-hub app`."""

import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be served: the desk, the host and the port."""
    pytest.importorskip("gradio")
    import stellar_hub.app

    calls: list[tuple[Any, ...]] = []

    def serve(desk: Any, host: str, port: int, ready: Any) -> None:
        calls.append((desk, host, port))
        ready(f"http://{host}:{port}")

    monkeypatch.setattr(stellar_hub.app, "serve", serve)
    return calls


def test_app__serves_on_this_machine_alone(command: Command, model_folder: Path, served: list[tuple[Any, ...]]) -> None:
    result = command("app", "--model", model_folder)
    assert result.exit_code == 0, result.output
    desk, host, port = served[0]
    assert (host, port) == ("127.0.0.1", 7860)
    assert desk.models.names[0] == str(model_folder)
    assert "stellar-b16" in desk.models.names
    assert "http://127.0.0.1:7860" in result.stdout


def test_app__offers_only_its_own_models_to_others(
    command: Command, model_folder: Path, served: list[tuple[Any, ...]]
) -> None:
    result = command("app", "-m", model_folder, "-m", "stellar-tiny", "--host", "0.0.0.0", "--port", 0)
    assert result.exit_code == 0, result.output
    assert served[0][0].models.names == (str(model_folder), "stellar-tiny")
    assert "no password" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [("--port", "70000"), ("--port", "-1"), ("--model", "no-such"), ("--store-images", "x"), ("--device", "abacus")],
)
def test_app__refuses_wrong_usage_before_it_loads(
    command: Command, wrong: tuple[str, str], served: list[tuple[Any, ...]]
) -> None:
    assert command("app", *wrong).exit_code == 2
    assert served == []


def test_app__reports_a_store_that_is_none(command: Command, tmp_path: Path, served: list[tuple[Any, ...]]) -> None:
    result = command("app", "--store", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "no such folder" in result.stderr
    assert served == []


def test_app__says_how_to_install_gradio(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = command("app")
    assert result.exit_code == 1
    assert "stellar_hub[app]" in result.stderr
