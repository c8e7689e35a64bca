"""The benchmark of starting up: its frame measures, and its table says what was measured."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.modeling import StellarModel

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "startup.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("startup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_measure__times_each_phase_in_a_fresh_process(
    script: Any, shared_pixel_model: StellarModel, tmp_path: Path
) -> None:
    shared_pixel_model.save_pretrained(tmp_path / "stellar_hub")
    found = script.measure("stellar_hub", tmp_path, threads=1)
    assert all(found[phase] > 0 for phase in script.PHASES)
    assert found["resident"] > 50e6


def test_table__has_a_row_for_each_library(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.print_table(
        [
            {"library": name, "import": 1.5, "load": 0.25, "encode": 0.125, "total": 1.875, "resident": 2e6}
            for name in "ab"
        ]
    )
    assert "| b | 1.50 | 0.25 | 0.12 | 1.88 | 2 |" in capsys.readouterr().out
