"""The notebooks run from their first cell to their last, without a network, and show images."""

import ast
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__is_python_that_begins_with_a_title(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    assert text.startswith("# %% [markdown]\n# # ")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook__runs_and_its_page_has_its_images(
    script: Script, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel searches its settings and its modules at these places.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(tmp_path / "matplotlib")))
    module = script("notebooks")
    page = tmp_path / f"{path.stem}.md"
    module.write_page(module.run_notebook(path), page)
    text = page.read_text(encoding="utf-8")
    images = list((tmp_path / f"{path.stem}_files").glob("*.png"))
    assert images
    assert all(f"{path.stem}_files/{image.name}" in text for image in images)
