"""Runs `benchmarks/loading_memory.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loading_memory.py"


@pytest.mark.slow
def test_loading_memory__stays_within_the_promise(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(report)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(report.read_text())
    assert [row["layout"] for row in rows] == ["own", "original"]
    for row in rows:
        assert 300 < row["encoder_mb"] < 400  # 87 million parameters in float32
        assert 0 < row["ratio"] <= 1.3
        assert row["ratio"] == pytest.approx(row["growth_mb"] / row["encoder_mb"], rel=1e-6)
        assert row["peak_mb"] >= row["growth_mb"]
        assert row["growth_mb"] + row["mapped_mb"] > 0.9 * row["encoder_mb"]  # it was loaded
        assert f"| {row['layout']} | {row['encoder_mb']:.1f} |" in result.stdout
