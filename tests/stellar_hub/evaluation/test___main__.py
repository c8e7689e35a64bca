"""`python -m stellar_hub.evaluation`."""

import subprocess
import sys


def test_module__is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stellar_hub.evaluation", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("knn", "linear", "segmentation", "reconstruction", "diagnostics", "all"):
        assert name in done.stdout
    assert "python -m stellar_hub.evaluation" in done.stdout
