"""The benchmark of multi-crop: it runs, and what it times is what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "multi_crop.py"


@pytest.mark.slow
def test_script__prints_and_writes_what_it_measured(tmp_path: Path) -> None:
    options = ["--images", "1", "--repeats", "1", "--json", str(tmp_path / "times.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], check=True, stdout=subprocess.PIPE, text=True)
    times = json.loads((tmp_path / "times.json").read_text())
    assert set(times) == {"decode", "ours", "reduced", "device", "usual", "colors"}
    assert 0 < times["decode"] < times["ours"] < times["usual"]
    for name, label in (("ours", "ours"), ("usual", "usual")):
        assert f"| {label} | {1e3 * times[name]:.1f} |" in done.stdout
