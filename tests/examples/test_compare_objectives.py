"""The script that compares objectives: its table, and what it says of an objective that fails."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stellar_hub.training.recipes import load_recipe

SCRIPT = Path(__file__).parents[2] / "examples" / "compare_objectives.py"
TINY = (
    "hidden_size=48",
    "num_hidden_layers=1",
    "model.config.image_size=32",
    "decoder_num_hidden_layers=1",
    "precision=fp32",
)
VIEWS = ("data.image_size=32", "local_size=16", "batch_size=4", "num_workers=0", "num_prototypes=16")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_objectives", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "compare_objectives", module)  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_objectives__are_recipes_with_settings_that_fit(script: ModuleType, tmp_path: Path) -> None:
    for name in script.OBJECTIVES:
        recipe = script.recipe_of(name, tmp_path, 7, 3, ["batch_size=8"])
        assert recipe.data.sources == (str(tmp_path),)
        assert (recipe.optimization.steps, recipe.run.seed, recipe.optimization.batch_size) == (7, 3, 8)
    assert script.recipe_of("stellar", tmp_path, 7, 3, []).model == load_recipe("stellar-tiny").model


def test_script__prints_a_row_for_each_objective_and_the_untrained_network(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(script.OBJECTIVES, "diverges", ("stellar-tiny", ("learning_rate=1e30", "clip_norm=null")))
    scenes = ["--scenes-train", "4", "--scenes-bank", "20", "--scenes-test", "3"]
    settings = [word for value in (*TINY, *VIEWS) for word in ("--set", value)]
    options = ["--objectives", "stellar", "diverges", "--steps", "3", *scenes, *settings, "--cpu"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--output", str(tmp_path / "runs")])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows] == ["objective", "---", "untrained", "stellar", "diverges"]
    assert len({len(row) for row in rows}) == 1
    assert rows[2][2] == rows[2][7] == ""
    assert float(rows[3][7]) > 0
    assert 0 < float(rows[3][5]) < 100
    assert rows[4][1].startswith("failed: ")
    assert (tmp_path / "runs" / "stellar" / "model").is_dir()


def test_gain__is_in_standard_errors_of_the_difference(script: ModuleType) -> None:
    assert script.standard_error(0.5, 100) == pytest.approx(0.05)
    first = script.Result("untrained", 0.5, 0.2, 0.3, None, None, 100)
    other = script.Result("other", 0.8, 0.2, 0.3, 21.0, 1.5, 100)
    row = script.table([first, other]).splitlines()[-1]
    assert row == "| other | 80.0 ± 4.0 | +4.7 | 20.0 ± 4.0 | +0.0 | 30.0 | 21.0 | 1.50 |"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scenes-bank", "19"], "--scenes-bank must be at least 20"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--objectives", "nothing"], "nothing"),
    ],
)
def test_options__that_do_not_fit_are_refused(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err
