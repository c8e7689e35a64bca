"""Images, some of them bad, and a store of the tiny model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.modeling import StellarModel
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store

COUNT = 23
BAD = (4, 17)
OPTIONS = ExtractionOptions(dtype="float32", batch_size=3, shard_rows=8)


def draw_images(folder: Path, count: int = COUNT, bad: tuple[int, ...] = BAD) -> Path:
    """Noise of 40 x 60 pixels, `0000.png` and so on; the bad ones are text."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:04d}.png"
        values = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        if index in bad:
            path.write_text("no image")
        else:
            Image.fromarray(values).save(path)
    return folder


def files_of(store: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 23 images, of which 4 and 17 are none; not to be changed."""
    return draw_images(tmp_path_factory.mktemp("extraction") / "images")


@pytest.fixture
def source(image_folder: Path) -> JoinedSources:
    """These images."""
    return open_sources([image_folder])


@pytest.fixture(scope="session")
def shared_store(
    tmp_path_factory: pytest.TempPathFactory, image_folder: Path, shared_pixel_model: StellarModel
) -> FeatureStore:
    """A store of all features of these images, float32, in three shards; not to be changed."""
    folder = tmp_path_factory.mktemp("store") / "store"
    options = ExtractionOptions(("S", "L", "pooled", "cls", "patches"), "float32", batch_size=3, shard_rows=8)
    extract_to_store(
        shared_pixel_model,
        open_sources([image_folder]),
        folder,
        options,
        source_names=[str(image_folder)],
        num_workers=0,
        show_progress=False,
    )
    return FeatureStore(folder)


@pytest.fixture
def extract(source: JoinedSources, pixel_model: StellarModel, tmp_path: Path) -> Callable[..., Path]:
    """Extracts these images into a folder, "store" unless named; returns it."""

    def run(name: str = "store", options: ExtractionOptions = OPTIONS, **keywords: object) -> Path:
        keywords = {"model": pixel_model, "source": source, "show_progress": False, "num_workers": 0} | keywords
        extract_to_store(folder=tmp_path / name, options=options, **keywords)  # type: ignore[arg-type]
        return tmp_path / name

    return run
