"""The benchmark of training steps: its variants give one loss, and its rows hold together."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.training.recipes.files import load_recipe, save_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_step.py"
TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "reconstruction_head": "pixel",
    "num_prototypes": 512,
    "prototype_dim": 16,
    "prototype_hidden_size": 32,
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; memory is measured in this process, as four more would take their time."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("training_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What earlier tests freed is used again, so that a step may take nothing new.
    monkeypatch.setattr(module, "measure_apart", lambda variant, args: max(1, module.peak_memory(variant, args)))
    return module


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_script__prints_and_writes_what_it_measured(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [f"model.config.{name}={value}" for name, value in TINY.items()]
    recipe = load_recipe("b16", [*sets, "model.init=random", "data.image_size=64", "data.local_size=32"])
    save_recipe(recipe, tmp_path / "tiny.yaml")
    options = ["--recipe", str(tmp_path / "tiny.yaml"), "--repeats", "1", "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    assert script.main() == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == ["naive", "naive losses", "ours", "ours, checkpointing"]
    for row in rows.values():
        assert row["loss"] == pytest.approx(rows["ours"]["loss"], rel=1e-4)
        assert f"| {row['variant']} | " in printed
    assert rows["ours"]["gflop_per_image"] < rows["naive"]["gflop_per_image"]
    assert all(size > 0 for size in found["kept_mb_per_image"].values())
