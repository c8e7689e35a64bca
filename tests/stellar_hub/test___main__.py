"""`python -m stellar_hub`, which `accelerate launch` starts in each process, and its earlier spellings."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("stellar_hub", ["train", "--help"], "--recipe"),
        ("stellar_hub", ["eval", "--help"], "knn"),
        ("stellar_hub.training", ["--help"], "--recipe"),
        ("stellar_hub.evaluation", ["knn", "--help"], "--model"),
    ],
)
def test_module__is_the_command(module: str, arguments: list[str], expected: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    assert expected in done.stdout
