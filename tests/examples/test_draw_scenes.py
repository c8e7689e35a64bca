"""The script that writes drawn scenes: what it writes, what it leaves alone, what it refuses."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.scenes.scene import draw_scene

SCRIPT = Path(__file__).parents[2] / "examples" / "draw_scenes.py"


def run(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_script__writes_each_seed_once_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    first = run(folder, "--start", "7", "--count", "3", "--size", "16", "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert images(folder) == ["000007.png", "000008.png", "000009.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "000008.png")), draw_scene(8, 16).image)
    (folder / "000008.png").unlink()
    kept = (folder / "000007.png").stat().st_mtime_ns
    second = run(folder, "--start", "7", "--count", "4", "--size", "16", "--workers", "1")
    assert "2 scenes drawn, 2 were there" in second.stdout
    assert len(images(folder)) == 4
    assert (folder / "000007.png").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "999999", "--count", "2"], r"seeds must lie in [0, 1000000)"),
        (["--start", "-1", "--count", "2"], r"got start -1 and count 2"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--count", "2", "--size", "24"], "is of 16 x 16 pixels and not of 24 x 24"),
        (["--count", "2", "--size", "16", "--start", "5", "--max-objects", "0"], "max_objects must be at least 1"),
    ],
)
def test_script__refuses_without_writing(
    tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "000001.png")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--output", str(tmp_path), "--workers", "1", *options])
    with pytest.raises(SystemExit, match=re.escape(message)):  # which Python prints, and exits with 1
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert images(tmp_path) == ["000001.png"]
