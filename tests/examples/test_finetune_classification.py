"""The example trains a classifier and names the class of an image."""

import importlib.util
import sys
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarModel
from tests.stellar_hub.training.finetuning.conftest import draw_squares

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_classification.py"


def test_example__trains_and_classifies(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixel_model.save_pretrained(tmp_path / "model")
    photos = draw_squares(tmp_path / "photos", {"blue": 5, "red": 5})
    image, output = photos / "red" / "0.png", tmp_path / "run"
    words = [photos, image, "--output", output, "--model", tmp_path / "model", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    spec = importlib.util.spec_from_file_location("finetune_classification", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("accuracy on 2 images")
    assert last in (f"{image}: blue", f"{image}: red")
