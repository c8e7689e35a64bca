"""Runs the benchmark of near-duplicates on a few images."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_duplicates__measures_both_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    options = ["--scenes", "6", "--size", "64", "--photographs", "6"]
    outputs = ["--figure", tmp_path / "curve.png", "--json", tmp_path / "rows.json"]
    monkeypatch.setattr(sys, "argv", ["duplicates", *options, *map(str, outputs)])
    importlib.import_module("duplicates").main()
    results = json.loads((tmp_path / "rows.json").read_text())
    assert [(result["set"], result["images"]) for result in results] == [("scenes", 30), ("photographs", 30)]
    for result in results:
        recalls = [row["recall"] for row in result["tokens"]]
        assert recalls == sorted(recalls, reverse=True)
        assert result["groups"]["recompressed"] >= 0.5
    assert (tmp_path / "curve.png").exists()
    assert capsys.readouterr().out.count("| scenes |") == 1
