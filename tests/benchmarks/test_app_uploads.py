"""The benchmark of the demo page's memory."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "app_uploads.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("app_uploads", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table__judges_the_last_quarter_by_the_first(script: Any) -> None:
    table, flat = script.table_of([100.0] * 50 + [105.0] * 50, 0)
    assert flat
    assert "| 100 MB | 100 MB | 105 MB | 105 MB | 0 |" in table
    assert not script.table_of([100.0] * 50 + [120.0] * 50, 0)[1]
    assert not script.table_of([100.0] * 100, 1)[1]


def test_image_file__is_another_for_each_number_and_at_times_damaged(script: Any) -> None:
    assert script.image_file(0) != script.image_file(4)
    assert script.image_file(0) == script.image_file(0)
    assert len(script.image_file(9)) == 500


@pytest.mark.slow
def test_measure__runs_the_page(script: Any) -> None:
    pytest.importorskip("gradio")
    memory, left = script.measure(3, 2, "stellar-tiny")
    assert len(memory) == 3
    assert left == 0
