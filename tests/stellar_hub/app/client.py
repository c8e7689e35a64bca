"""A user without a browser: the client of the benchmark of uploads."""

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "app_uploads.py"


def load_benchmark() -> Any:
    """The module of the benchmark."""
    spec = importlib.util.spec_from_file_location("app_uploads", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Client: Any = load_benchmark().Client
