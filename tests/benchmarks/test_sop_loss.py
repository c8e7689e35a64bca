"""Runs `benchmarks/sop_loss.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sop_loss.py"


@pytest.mark.slow
def test_sop_loss__takes_a_fraction_of_the_memory_of_both_others(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--rows", "1024", "--memory", "4096", "--anchors", "512", "--supports", "8", "--width", "8"]
    command = [sys.executable, str(SCRIPT), *sizes, "--repeats", "1", "--threads", "1", "--chunk-sizes", "50"]
    result = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(report.read_text())
    assert [row["variant"] for row in rows] == ["formula", "sums", "ours, chunks of 50"]
    for row in rows:
        assert row["error"] <= 1e-5
        assert f"| {row['variant']} | {row['peak_mb']:.0f} |" in result.stdout
    assert rows[2]["peak_mb"] < 16.8  # one float32 tensor of rows x supports
    assert rows[2]["memory_ratio_formula"] < 1 / 3
    assert rows[2]["memory_ratio_sums"] < 1 / 3
