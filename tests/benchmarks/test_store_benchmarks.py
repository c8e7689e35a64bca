"""Runs the benchmarks that measure what is in a store."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a benchmark in this process; the rows it writes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def call(name: str, *arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [name, "--json", str(tmp_path / "rows.json"), *arguments])
        assert importlib.import_module(name).main() == 0
        return json.loads((tmp_path / "rows.json").read_text())

    return call


@pytest.mark.slow
def test_quantized_store__says_what_a_dtype_costs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["dtype"]: row for row in run("quantized_store")}
    assert rows["float32"]["bytes"] == 4 * (16 * 192 + 256 * 16)
    assert rows["float16"]["bytes"] == 2 * (16 * 192 + 256 * 16)
    assert rows["int8"]["bytes"] == 16 * 192 + 256 * 16 + 2 * (16 + 256)
    assert rows["float32"]["psnr_of_exact"] == float("inf")
    assert rows["int8"]["cosine"] > 0.9999
    assert abs(rows["int8"]["psnr"] - rows["float32"]["psnr"]) < 0.05
    assert "| int8 | 7712 | 0.27 |" in capsys.readouterr().out


@pytest.mark.slow
def test_recall__is_told_for_each_search(run: Run) -> None:
    every = run("retrieval_recall", "--scenes", "60", "--queries", "40", "--recombined", "300")
    rows = {row["search"]: row for row in every if "recall_at_1" in row}
    assert len(rows) == 8
    for row in rows.values():
        assert 0 <= row["recall_at_1"] <= row["recall_at_5"] <= row["recall_at_10"] <= 1
    assert rows["one token"]["pointing"] <= rows["one token"]["recall_at_1"]
    assert rows["one token"]["recall_at_1"] > rows["random images"]["recall_at_1"]
    large = {(row["search"], row["dtype"]): row["share"] for row in every if "share" in row}
    assert large["MaxSim", "float32"] == 1
    assert 0.9 < large["MaxSim", "int8"] <= 1
    assert 0.9 < large["MaxSim of 1000 by pooled", "float16"] <= 1  # all of them
    stages = [row for row in every if "stage" in row]
    assert stages[0]["stage"] == "pooled"
    assert all(0 < row["scenes"] <= 1 and 0 < row["recombined"] <= 1 for row in stages)


def test_check__is_measured_once_and_not_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = run("store_check", "--rows", "40")
    assert row["gigabytes"] > 0
    assert row["first"] > 0
    assert capsys.readouterr().out.startswith("| GB |")


def test_memory__counts_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = importlib.import_module("extraction_memory")
    before = memory.anonymous_bytes()
    block = torch.ones(25_000_000)  # 100 MB
    assert 90e6 < memory.anonymous_bytes() - before < 120e6
    assert block.sum() == 25_000_000


def test_memory__reads_a_list_of_any_length(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = importlib.import_module("extraction_memory")
    path = memory.write_list(tmp_path, [Path("a.jpg"), Path("b.jpg")], 5)
    assert path.read_text().split() == ["a.jpg", "b.jpg", "a.jpg", "b.jpg", "a.jpg"]
