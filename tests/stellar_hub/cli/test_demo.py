"""`stellar-hub demo`."""

import socket
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from .conftest import Command


def test_demo__draws_a_page_for_each_photograph_without_a_network(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the demo reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    result = command("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert "note:" not in result.stderr
    names = {
        Path(entry.name).stem for entry in files("stellar_hub.demo_images").iterdir() if entry.name.endswith(".jpg")
    }
    assert {path.stem for path in (tmp_path / "demo").iterdir()} == names
    for path in (tmp_path / "demo").iterdir():
        with Image.open(path) as page:
            page.load()
    assert f"The pages are in {tmp_path / 'demo'}" in result.stdout


def test_demo__can_be_run_again(command: Command, tmp_path: Path) -> None:
    assert command("demo", "--output", tmp_path).exit_code == 0
    assert command("demo", "--output", tmp_path).exit_code == 0
