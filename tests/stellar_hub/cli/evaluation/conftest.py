"""Folders of images with classes and with masks, a way to run `stellar-hub eval`, and what a failed command says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.evaluation.conftest import paint_classes, paint_masks

ErrorOf = Callable[..., str]


@pytest.fixture
def evaluate(command: Command) -> Command:
    """Runs `stellar-hub eval` with these arguments in this process, without worker processes."""
    return lambda name, *arguments: command("eval", name, *arguments, "--num-workers", 0)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """13 images of three classes."""
    return paint_classes(tmp_path / "train", {"blue": 5, "green": 4, "red": 4}, 1)


@pytest.fixture
def test(tmp_path: Path) -> Path:
    """7 other images of the same classes."""
    return paint_classes(tmp_path / "test", {"blue": 3, "green": 2, "red": 2}, 2)


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """9 images with masks, and 5 others."""
    return paint_masks(tmp_path / "masked-train", 9, 1), paint_masks(tmp_path / "masked-test", 5, 2)


@pytest.fixture
def error_of() -> ErrorOf:
    """Returns the one error line of a failed command; 2 is the exit code of wrong usage."""

    def read(result: Result, exit_code: int = 1) -> str:
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        errors = [line for line in result.stderr.splitlines() if line.lower().startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    return read
