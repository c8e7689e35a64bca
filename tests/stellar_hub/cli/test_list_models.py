"""`stellar-hub list`."""

from pathlib import Path

import pytest

from stellar_hub.registry import EMBEDDED_FOLDER, MODELS

from .conftest import Command


def test_list__names_every_model_with_license_and_place(command: Command) -> None:
    result = command("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for model in MODELS.values():
        line = next(line for line in lines if line.startswith(model.name))
        assert model.license in line
        assert ("in the package" in line) == (model.file is None)


def test_list__gives_the_size_of_the_weights(command: Command) -> None:
    weights = EMBEDDED_FOLDER / "stellar-tiny" / "model.safetensors"
    line = next(line for line in command("list").stdout.splitlines() if line.startswith("stellar-tiny"))
    assert line.split()[1] == str(round(weights.stat().st_size / 1e6))


def test_list__says_what_is_cached(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MODELS["stellar-b16"].file
    assert file is not None
    snapshot = tmp_path / f"models--{file.repository.replace('/', '--')}" / "snapshots" / file.revision
    snapshot.mkdir(parents=True)
    (snapshot / file.name).write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    lines = {line.split()[0]: line for line in command("list").stdout.splitlines()}
    assert lines["stellar-b16"].endswith("cached")
    assert lines["stellar-l16"].endswith("on the Hub")
