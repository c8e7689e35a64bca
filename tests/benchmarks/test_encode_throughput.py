"""The benchmark of encoding: it runs, and its rows hold together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "encode_throughput.py"


@pytest.mark.slow
def test_script__prints_and_writes_what_it_measured(tmp_path: Path) -> None:
    options = ["--batches", "1", "--dtypes", "float32", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], check=True, stdout=subprocess.PIPE, text=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    ours = ["stellar-b16", "stellar-b16 optimized"]
    assert [row["model"] for row in rows] == [*ours, "timm vit_base_patch16_224", "transformers Dinov2, b"]
    assert rows[2]["speed_per_token"] == 1.0
    assert "encoder: " in done.stdout  # what was optimized
    for row in rows:
        assert 0 < row["share_of_matrix_rate"] < 2
        assert f"| {row['model']} | float32 | 1 | {row['images_per_second']:.2f} |" in done.stdout
