import sys
from pathlib import Path

import pytest

from stellar_hub.extras import require


def test_installed_module__gives_its_top_level_package() -> None:
    import json

    assert require("json.decoder", "extract", "a test") is json


def test_missing_module__names_purpose_package_and_command() -> None:
    with pytest.raises(ImportError, match=r"^the index .*nowhere.*pip install 'stellar_hub\[extract\]'") as caught:
        require("nowhere.inside", "extract", "the index of a feature store")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_module_that_fails_on_import__says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("raise ImportError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"stellar_hub\[onnx\].*libfoo\.so is missing"):
        require("broken_extra", "onnx", "the export")
    assert "broken_extra" not in sys.modules
