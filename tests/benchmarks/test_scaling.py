"""The benchmark of growing costs: it runs, and its counts are those of the formulas."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.mark.slow
def test_script__counts_what_the_formulas_say(tmp_path: Path) -> None:
    options = ["--tokens", "8", "16", "--prototypes", "64", "128", "--image-sizes", "32", "64", "--image-size", "32"]
    options += ["--layers", "1", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "found.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], check=True, stdout=subprocess.PIPE, text=True)
    tokens, images, prototypes = json.loads((tmp_path / "found.json").read_text()).values()
    assert [row["value"] for row in tokens] == [8, 16]
    assert tokens[0]["gflop"] < tokens[1]["gflop"] < 2 * tokens[0]["gflop"]
    assert images[1]["gflop"] > images[0]["gflop"]
    # scores for the assignment, and for the loss, with both gradients: all linear in the prototypes
    assert prototypes[1]["gflop"] == pytest.approx(2 * prototypes[0]["gflop"])
    assert prototypes[0]["gflop"] == pytest.approx(4 * 2 * 1024 * 64 * 256 / 1e9)
    assert "| exponent of time |" in done.stdout
