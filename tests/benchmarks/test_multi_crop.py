"""The benchmark of multi-crop: it runs, and the table and the file have the same numbers."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "multi_crop.py"


@pytest.mark.slow
def test_script__prints_and_writes_its_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "1", "--width", "48", "--height", "40", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--json", str(tmp_path / "times.json")])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0
    times = json.loads((tmp_path / "times.json").read_text())
    assert set(times) == {"decode", "ours", "reduced", "device", "usual", "colors"}
    assert min(times.values()) > 0
    printed = capsys.readouterr().out
    for seconds in times.values():
        assert f"| {1e3 * seconds:.1f} |" in printed
