"""The package's front door."""

import gc
import subprocess
import sys

import pytest

import stellar_hub
import stellar_hub.registry

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


def test_loading__imports_only_what_encoding_uses() -> None:
    unused = (
        *("sklearn", "pandas", "pyarrow", "torchmetrics", "matplotlib", "typer", "rich", "ruamel", "datasets", "peft"),
        *("torchao", "faiss", "ray", "onnx", "onnxruntime", "fsspec.implementations", "timm.optim", "timm.scheduler"),
        *(
            "transformers.pipelines",
            "transformers.models.dinov2",
            "transformers.generation.utils",
            "transformers.trainer",
        ),
        *(f"stellar_hub.{room}" for room in ("data", "features", "store", "retrieval", "visualization", "export")),
        *(f"stellar_hub.{room}" for room in ("training", "evaluation", "measures", "cli")),
    )
    code = (
        "import sys, stellar_hub; stellar_hub.StellarModel.from_pretrained('stellar-tiny', decoder=False); "
        f"print(sorted(set({unused}) & set(sys.modules)))"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize("enabled", [True, False])
def test_first_touch__leaves_garbage_collection_as_it_was(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    seen = []

    def load(name: str) -> object:
        seen.append(gc.isenabled())
        return stellar_hub.registry

    monkeypatch.setattr(stellar_hub, "import_module", load)
    monkeypatch.delitem(vars(stellar_hub), "list_models", raising=False)
    was_enabled = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        assert stellar_hub.list_models is stellar_hub.registry.list_models
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable() if was_enabled else gc.disable()


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
