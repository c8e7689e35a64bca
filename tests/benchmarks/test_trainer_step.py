"""The benchmark of a run's step: both ways are measured, and the chosen one says what it is."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "trainer_step.py"


def test_script__measures_the_plain_and_the_chosen_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("trainer_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    options = ["--images", "2", "--repeats", "1", "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    assert module.main() == 0
    plain, chosen = json.loads((tmp_path / "found.json").read_text())
    assert (plain["way"], chosen["way"]) == ("plain", "chosen")
    assert (chosen["compile"], chosen["cuda_graphs"], chosen["prototype_precision"]) == (False, False, "fp32")
    assert plain["images_per_second"] > 0
    assert "| chosen | " in capsys.readouterr().out
