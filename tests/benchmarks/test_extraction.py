"""What `benchmarks/extraction.py` measures with, on next to nothing."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from stellar_hub.modeling import StellarModel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("extraction", None)
    return importlib.import_module("extraction")


def test_contestants__do_the_same_images(script: ModuleType, pixel_model: StellarModel, tmp_path: Path) -> None:
    paths = script.write_images(tmp_path / "images", 3)
    with Image.open(paths[2]) as image:
        assert image.size == (500, 375)
    contestants = {
        "the model alone": script.model_alone(pixel_model, 3, 2),
        "extract": script.extraction(pixel_model, tmp_path / "images", 2, 0),
        "pipeline": script.piped(pixel_model, paths, None),
    }
    ticks = iter(range(100))
    rates = script.rates(contestants, 3, 2, lambda: next(ticks))
    assert rates == dict.fromkeys(contestants, 3.0)  # a clock that goes on by one at each look
    assert (tmp_path / "images-store" / "index.parquet").exists()


@pytest.mark.parametrize(
    ("extract", "b16", "enough"), [(100, 0.95, True), (100, 0.85, False), (50, 0.95, False), (79, 0.95, False)]
)
def test_bars__are_those_of_the_promise(script: ModuleType, extract: float, b16: float, enough: bool) -> None:
    tiny = {"extract": extract, "pipeline": 40.0, "pipeline, batches of 32": 90.0}
    found = {"stellar-b16": {"extract": b16, "the model alone": 1.0}, "stellar-tiny": tiny}
    assert script.meets_bars(found) is enough
