"""Folders of images with classes and with masks, and what a failed command says."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.stellar_hub.evaluation.conftest import paint_classes, paint_masks


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """13 images of three classes."""
    return paint_classes(tmp_path / "train", {"blue": 5, "green": 4, "red": 4}, 1)


@pytest.fixture
def test(tmp_path: Path) -> Path:
    """7 others."""
    return paint_classes(tmp_path / "test", {"blue": 3, "green": 2, "red": 2}, 2)


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """9 images with masks, and 5 others."""
    return paint_masks(tmp_path / "masked-train", 9, 1), paint_masks(tmp_path / "masked-test", 5, 2)


@pytest.fixture
def error_of() -> Callable[[Result], str]:
    """The one line a failed command says."""

    def read(result: Result) -> str:
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    return read
