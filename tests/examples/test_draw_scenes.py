"""The script that writes drawn scenes: what it writes, keeps and refuses."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.scenes import draw_scene
from stellar_hub.old_names import old_names

SCRIPT = Path(__file__).parents[2] / "examples" / "draw_scenes.py"


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *options: str) -> None:
    """Runs the script in this process; its workers find its functions under the module's name."""
    spec = importlib.util.spec_from_file_location("draw_scenes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "draw_scenes", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--output", str(output), *options])
    module.main()


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_script__writes_each_seed_once_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scenes"
    run(monkeypatch, folder, "--start", "7", "--count", "3", "--size", "16", "--num-workers", "2")
    assert images(folder) == ["000007.png", "000008.png", "000009.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "000008.png")), draw_scene(8, 16).image)
    (folder / "000008.png").unlink()
    kept = (folder / "000007.png").stat().st_mtime_ns
    options = ["--start", "7", "--count", "4", "--size", "16", "--num-workers", "0", "--class-cue", "color"]
    run(monkeypatch, folder, *options)
    assert "2 scenes drawn, 2 existed" in capsys.readouterr().out
    assert len(images(folder)) == 4
    assert (folder / "000007.png").stat().st_mtime_ns == kept
    expected = draw_scene(8, 16, class_cue="color").image
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "000008.png")), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "999999", "--count", "2"], "999999 and count 2"),
        (["--count", "0"], "count must be at least 1, got 0"),
        (["--count", "2", "--size", "24"], "16 x 16 pixels, not 24 x 24"),
        (["--count", "2", "--size", "16", "--start", "5", "--max-objects", "0"], "max_objects must be at least 1"),
    ],
)
def test_script__refuses_without_writing(
    tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "000001.png")
    with pytest.raises(SystemExit, match=re.escape(message)):  # which Python prints, and exits with 1
        run(monkeypatch, tmp_path, "--num-workers", "0", *options)
    assert images(tmp_path) == ["000001.png"]


@pytest.mark.parametrize("new", ["--class-cue", "--num-workers"])
def test_old_options__are_refused_with_the_new_name(
    tmp_path: Path, new: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = next(old for old, named in old_names("options").items() if named == new)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, old, "1")
    assert new in capsys.readouterr().err.splitlines()[-1]
