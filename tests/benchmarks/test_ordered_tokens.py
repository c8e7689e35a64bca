"""The benchmark of ordered tokens: the bounds that it checks, and its table."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = [7.0, 6.0, 11.0, 12.0, 24.0]


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it imports a neighbour, as a script can."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("ordered_tokens")


@pytest.mark.parametrize(
    ("ordered", "passes"),
    [
        ([14.0, 16.0, 18.0, 20.0, 23.6], True),
        ([14.0, 16.0, 18.0, 20.0, 23.4], False),  # more than 0.5 dB below with all tokens
        ([10.0, 11.0, 12.9, 20.0, 23.6], False),  # less than 2 dB above with four
        ([14.0, 16.0, 18.0, 17.0, 23.6], False),  # does not rise
    ],
)
def test_bounds__are_those_of_the_docstring(benchmark_script: ModuleType, ordered: list[float], passes: bool) -> None:
    plain = [(value, 40.0) for value in PLAIN]
    assert benchmark_script.passes(plain, [(value, 40.0) for value in ordered]) is passes


def test_table__has_a_row_for_each_model_and_measure(benchmark_script: ModuleType) -> None:
    lines = benchmark_script.table({"plain": [(value, 40.0) for value in PLAIN]}).splitlines()
    assert lines[0] == "| model | k = 1 | k = 2 | k = 4 | k = 8 | k = 16 |"
    assert lines[2:] == [
        "| plain, PSNR, dB | 7.00 | 6.00 | 11.00 | 12.00 | 24.00 |",
        "| plain, kNN, % | 40.0 | 40.0 | 40.0 | 40.0 | 40.0 |",
    ]
