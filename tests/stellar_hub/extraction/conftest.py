"""Pictures, some of them bad, and a store of the tiny model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stellar_hub.modeling import StellarModel

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.extraction import FeatureStore, extract_to_store
from stellar_hub.extraction.plan import ExtractionOptions

COUNT = 23
BAD = (4, 17)
OPTIONS = ExtractionOptions(dtype="float32", batch_size=3, shard_rows=8)


def draw_pictures(folder: Path, count: int = COUNT, bad: tuple[int, ...] = BAD) -> Path:
    """Noise of 40 x 60 pixels, `0000.png` and so on; the bad ones are text."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:04d}.png"
        values = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        if index in bad:
            path.write_text("no picture")
        else:
            Image.fromarray(values).save(path)
    return folder


def files_of(store: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 23 pictures, of which 4 and 17 are none; not to be changed."""
    return draw_pictures(tmp_path_factory.mktemp("extraction") / "pictures")


@pytest.fixture
def source(pictures: Path) -> JoinedSources:
    """These pictures."""
    return open_sources([pictures])


@pytest.fixture(scope="session")
def shared_store(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path, shared_pixel_model: StellarModel
) -> FeatureStore:
    """A store of all features of these pictures, float32, in three shards; not to be changed."""
    folder = tmp_path_factory.mktemp("store") / "store"
    options = ExtractionOptions(("S", "L", "pooled", "cls", "patches"), "float32", batch_size=3, shard_rows=8)
    extract_to_store(
        shared_pixel_model, open_sources([pictures]), folder, options, source_names=[str(pictures)], show_progress=False
    )
    return FeatureStore(folder)


@pytest.fixture
def extract(source: JoinedSources, pixel_model: StellarModel, tmp_path: Path) -> Callable[..., Path]:
    """Extracts these pictures into a folder, "store" unless named; returns it."""

    def run(name: str = "store", options: ExtractionOptions = OPTIONS, **keywords: object) -> Path:
        keywords = {"model": pixel_model, "source": source, "show_progress": False} | keywords
        extract_to_store(folder=tmp_path / name, options=options, **keywords)  # type: ignore[arg-type]
        return tmp_path / name

    return run
