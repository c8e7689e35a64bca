"""A tiny model in a folder, images, and a way to run commands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from stellar_hub.cli.main import app
from stellar_hub.modeling import StellarImageProcessor, StellarModel

Command = Callable[..., Result]


@pytest.fixture
def model_folder(pixel_model: StellarModel, tmp_path: Path) -> Path:
    """The tiny pixel model, saved with its processor."""
    folder = tmp_path / "model"
    pixel_model.save_pretrained(folder)
    StellarImageProcessor.from_config(pixel_model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with two images, one of them in a folder below, and a text file."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "wide.png")
    Image.fromarray(values.transpose(1, 0, 2)).save(folder / "below" / "tall.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def command() -> Command:
    """Runs `stellar-hub` with these arguments in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
