"""`stellar-hub push`; what it sends is tested with the Hub."""

from pathlib import Path
from typing import Any

import pytest

from stellar_hub.hub import push as push_module
from stellar_hub.modeling import StellarModel

from .conftest import Command


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords of every push, which is not done."""
    recorded: list[dict[str, Any]] = []

    def record(model: object, repo_id: str, **options: Any) -> push_module.Pushed:
        recorded.append({"repo_id": repo_id, **options})
        return push_module.Pushed("https://hub/user/name", FILES)

    monkeypatch.setattr(push_module, "push", record)
    return recorded


def test_push__is_private_unless_told(command: Command, model_folder: Path, calls: list[dict[str, Any]]) -> None:
    assert command("push", model_folder, "user/name", "--license", "mit").exit_code == 0
    assert command("push", model_folder, "user/name", "--license", "mit", "--public").exit_code == 0
    assert [call["private"] for call in calls] == [True, False]
    assert calls[0]["license"] == "mit"


FILES = {"config.json": 317, "a.py": 1000, "b.py": 500, "model.safetensors": 2_000_000}


def test_push__dry_run_lists_the_files(command: Command, model_folder: Path, calls: list[dict[str, Any]]) -> None:
    result = command("push", model_folder, "user/name", "--license", "mit", "--dry-run")
    assert calls[0]["dry_run"]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["config.json", "317", "B"] in lines
    assert ["model.safetensors", "2.0", "MB"] in lines
    (code,) = [line for line in result.stdout.splitlines() if ".py" in line]
    assert code.startswith("*.py (2 files")
    assert code.endswith(" 1.5 kB")
    assert result.stdout.splitlines()[-1] == (
        "4 files, 2.0 MB, license mit, would be pushed to https://hub/user/name; a new repository would be private"
    )


def test_push__of_a_folder_without_a_model_says_so(command: Command, image_folder: Path) -> None:
    for options in ([], ["--license", "mit"]):
        result = command("push", image_folder, "user/name", "--dry-run", *options)
        assert result.exit_code == 1
        assert "holds no model" in result.stderr
        assert "license" not in result.stderr


def test_push__dry_run_needs_no_network(command: Command, model_folder: Path) -> None:
    # The suite runs with HF_HUB_OFFLINE=1.
    result = command("push", model_folder, "user/name", "--license", "mit", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "model.safetensors" in result.stdout
    assert "user/name (not reached)" in result.stdout


def test_push__without_an_owner_belongs_to_the_user_of_the_token(command: Command, model_folder: Path) -> None:
    result = command("push", model_folder, "birds", "--license", "mit", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "/USER/birds, where USER is the user of your token (not reached)" in result.stdout
    assert len(result.stderr.splitlines()) == 2  # loading, and asking


def test_push__asks_the_hub_whose_token_it_is(
    command: Command, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda api: {"name": "ana"})
    result = command("push", model_folder, "birds", "--license", "mit", "--dry-run")
    assert "/ana/birds (not reached)" in result.stdout


def test_push__says_which_license_it_replaces(
    command: Command, pixel_model: StellarModel, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    pixel_model.save_pretrained(tmp_path / "mine", license="mit")
    assert (
        "note: --license other replaces mit" in command("push", tmp_path / "mine", "a/b", "--license", "other").stderr
    )
    assert "note" not in command("push", tmp_path / "mine", "a/b", "--license", "mit").stderr
    assert "license mit" in command("push", tmp_path / "mine", "a/b", "--dry-run").stdout


@pytest.mark.parametrize("arguments", [["user/name"], ["a/b/c", "--license", "mit"], ["a b", "--license", "mit"]])
def test_push__refuses_what_the_hub_would_refuse(command: Command, model_folder: Path, arguments: list[str]) -> None:
    result = command("push", model_folder, *arguments)
    assert result.exit_code == 2
    assert ("--license" if len(arguments) == 1 else arguments[0]) in result.stderr
    assert "loading" not in result.stderr
