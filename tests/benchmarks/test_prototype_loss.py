"""Runs `benchmarks/prototype_loss.py`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prototype_loss.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module of its own, whose functions a test may replace."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("prototype_loss_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_prototype_loss__takes_a_fraction_of_the_formulas_memory(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--rows", "2048", "--prototypes", "2048", "--width", "8", "--repeats", "1", "--threads", "1"]
    command = [sys.executable, str(SCRIPT), *sizes, "--chunk-sizes", "100", "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(report.read_text())
    assert [row["variant"] for row in rows] == ["formula", "ours, chunks of 100"]
    for row in rows:
        assert row["error"] <= 1e-5
        assert row["seconds"] > 0
        assert f"| {row['variant']} | {row['peak_mb']:.0f} |" in result.stdout
    assert rows[0]["peak_mb"] > 3 * 16.8  # one float32 tensor of rows x prototypes takes 16.8 MB
    assert rows[1]["peak_mb"] < 16.8


@pytest.mark.parametrize(
    ("peak", "seconds", "options", "status"),
    [(33, 1.0, ["--check"], 0), (34, 1.0, ["--check"], 1), (33, 1.1, ["--check"], 1), (34, 1.1, [], 0)],
)
def test_prototype_loss__exits_with_1_where_a_bar_is_missed(
    peak: int,
    seconds: float,
    options: list[str],
    status: int,
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "measure_apart", lambda variant, _: 100 if variant == "formula" else peak)
    monkeypatch.setattr(benchmark, "interleaved_seconds", lambda *_: {"formula": 1.0, "0": seconds})
    sizes = ["--rows", "4", "--prototypes", "8", "--width", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *sizes, *options])
    assert benchmark.main() == status
    assert f"| ours | 0 | 0.{peak} | {seconds:.3f} |" in capsys.readouterr().out
