"""`stellar-hub finetune`: what it prints, and what it refuses."""

import sys
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarForImageClassification
from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.training.finetuning.conftest import draw_squares


@pytest.fixture
def train_folder(tmp_path: Path) -> Path:
    """Two classes of five images each."""
    return draw_squares(tmp_path / "photos", {"blue": 5, "red": 5})


def test_finetune__trains_and_says_where_the_model_is(
    command: Command, train_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    (train_folder / "red" / "notes.xyz").write_text("no image")
    arguments = [train_folder, "--model", model_folder, "--output", tmp_path / "run", "--mode", "frozen", "--cpu"]
    result = command("finetune", *arguments, "--epochs", 2, "--num-workers", 0)
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert "of 2)" in result.stdout  # a fifth of each class is held out
    assert f"the model is in {tmp_path / 'run' / 'model'}" in result.stdout
    assert "held out" in result.stderr
    assert ".xyz" in result.stderr
    loaded = StellarForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.id2label == {0: "blue", 1: "red"}
    again = command("finetune", *arguments, "--epochs", 2, "--num-workers", 0)
    assert (again.exit_code, "--resume auto" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--epochs", "0"], 2, "--epochs"),
        (["--mode", "lora", "--layer-decay", "0.7"], 2, "layer_decay"),
        (["--learning-rate", "0"], 2, "learning_rate"),
        (["--mode", "half"], 2, "half"),
        (["--model", "stellar-tinny"], 2, "stellar-tiny"),
        (["--test", "nowhere"], 1, "nowhere"),
        (["--workers", "4"], 2, "--num-workers"),
    ],
)
def test_wrong_options__are_refused(
    command: Command, train_folder: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = command("finetune", train_folder, "--output", tmp_path / "run", "--cpu", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_images_without_classes__are_refused(command: Command, tmp_path: Path) -> None:
    folder = draw_squares(tmp_path / "one", {"red": 2})
    result = command("finetune", folder, "--output", tmp_path / "run", "--cpu")
    assert (result.exit_code, "at least 2 classes" in result.stderr) == (1, True)


def test_missing_peft__says_how_to_install_it(
    command: Command, train_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    result = command("finetune", train_folder, "--output", tmp_path / "run", "--mode", "lora", "--cpu")
    assert (result.exit_code, "stellar_hub[peft]" in result.stderr) == (1, True)
