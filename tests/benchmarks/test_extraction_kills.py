"""Runs `benchmarks/extraction_kills.py` on a part of what it does by default."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "extraction_kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_killed_extraction__ends_with_the_same_bytes(decoder: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--images", "200", "--kills", "3", "--processes", "2", "--decoder", decoder, "--json", str(report)]
    result = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = json.loads(report.read_text())
    assert (counts["rows"], counts["shards"], counts["errors"], counts["kills"]) == (200, 20, 2, 3)
    assert (counts["different_files"], counts["wrong_statuses"]) == (0, 0)


@pytest.mark.slow
def test_killed_append__ends_with_the_same_bytes(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--append", "--images", "200", "--kills", "4", "--processes", "2", "--json", str(report)]
    result = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = json.loads(report.read_text())
    assert (counts["rows"], counts["shards"], counts["errors"], counts["kills"]) == (200, 20, 2, 4)
    assert (counts["different_files"], counts["wrong_statuses"], counts["unreadable"]) == (0, 0, 0)
