"""The package's front door."""

import subprocess
import sys

import pytest

import stellar_hub

# Best of three, as this machine may be busy; the limit is a promise of the README.
MAX_MODULES = 60  # most of them are Python's own


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import__loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'timm', 'numpy', 'PIL', 'typer'}"
    assert run(f"import sys, stellar_hub; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_import__loads_few_modules() -> None:
    code = "import sys; before = set(sys.modules); import stellar_hub; print(len(set(sys.modules) - before))"
    assert int(run(code)) < MAX_MODULES


def test_public_names__are_all_there() -> None:
    for name in stellar_hub.__all__:
        assert getattr(stellar_hub, name) is not None
    assert set(stellar_hub.__all__) <= set(dir(stellar_hub))


def test_unknown_attribute__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'StellarModle'"):
        _ = stellar_hub.StellarModle


def test_inference__never_imports_training() -> None:
    code = (
        "import sys, stellar_hub; stellar_hub.StellarModel; stellar_hub.list_models; "
        "import stellar_hub.modeling, stellar_hub.conversion, stellar_hub.visualization, stellar_hub.cli.main; "
        "import stellar_hub.store.command, stellar_hub.store.ray_engine, stellar_hub.retrieval; "
        "print([name for name in sys.modules if name.startswith('stellar_hub.training')])"
    )
    assert run(code) == "[]"
