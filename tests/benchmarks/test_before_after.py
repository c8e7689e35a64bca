"""The comparison of two checkouts: it runs each with its own code, and names the numbers."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "before_after.py"
BENCHMARK = """
import json, sys, stellar_hub
rows = [{"model": "a", "batch": 8, "seconds": stellar_hub.SECONDS}, {"model": "b", "batch": 8, "seconds": 1.0}]
json.dump({"rows": rows, "options": len(sys.argv), "passed": True}, open(sys.argv[-1], "w"))
"""


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("before_after", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder: Path, seconds: float) -> Path:
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "stellar_hub").mkdir()
    (folder / "benchmarks" / "timing.py").write_text(BENCHMARK)
    (folder / "stellar_hub" / "__init__.py").write_text(f"SECONDS = {seconds}\n")
    return folder


def test_script__shows_medians_of_both_checkouts(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkout(tmp_path / "before", 2.0)
    monkeypatch.setattr(script, "HERE", checkout(tmp_path / "after", 3.0))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--rounds", "1", str(before), "timing.py", "--threads", "1"])
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert "| rows a seconds | 2 | 3 | 1.500 |" in printed
    assert "| rows b seconds | 1 | 1 | 1.000 |" in printed
    assert "| options | 5 | 5 | 1.000 |" in printed
    assert "passed" not in printed
