import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

FAKE = """
import os, time

def make(rng, folder):
    path = folder / "case"
    path.write_text(rng.choice({words}))
    return path

def attempt(path):
    from fuzz_targets import SilentDifference
    word = path.read_text()
    if word == "hang": time.sleep(600)
    while word == "turn": pass
    if word == "die": os._exit(3)
    if word == "grow": return str(len(b"x" * 300_000_000))
    if word == "differ": raise SilentDifference("another value")
    if word == "raise": raise KeyError("x")
    return "ok"
"""


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("fuzz", BENCHMARKS / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("target", ["images", "tars", "configs", "recipes", "checkpoints", "stores"])
def test_fuzz__mutated_files_end_in_one_line_each(fuzz: ModuleType, target: str) -> None:
    result = fuzz.run_target(target, count=60, seed=1)
    assert not result.faults
    assert sum(result.counts.values()) == 60
    assert len(result.counts) > 1  # some files are refused, and some are read


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("hang", "hang"),
        ("turn", "hang"),
        ("die", "died"),
        ("grow", "memory"),
        ("differ", "silent difference"),
        ("raise", "traceback"),
        ("fine", "ok"),
    ],
)
def test_fuzz__notices_each_fault(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str, outcome: str
) -> None:
    (tmp_path / "fake_target.py").write_text(FAKE.replace("{words}", repr([word])))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fake_target", raising=False)
    monkeypatch.setattr(fuzz, "MAX_BYTES", 100_000_000)
    if word == "turn":
        monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.5)
    if word == "hang":
        monkeypatch.setattr(fuzz, "MAX_CLOCK_SECONDS", 0.5)
    result = fuzz.run_target("fake_target", count=1, seed=0)
    assert result.counts == {outcome: 1}
    assert bool(result.faults) == (outcome != "ok")


def test_fuzz__a_case_is_the_same_whatever_came_before(fuzz: ModuleType, tmp_path: Path) -> None:
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        module = fuzz.load_target("images")
        path = module.make(fuzz.random.Random("images 0 17"), tmp_path / name)
        results.append((path.name, path.read_bytes()))
    assert results[0] == results[1]
