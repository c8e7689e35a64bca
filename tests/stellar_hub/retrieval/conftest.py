"""Drawn images of three colours, and a store of what the tiny model sees in them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarModel
from stellar_hub.store import ExtractionOptions, FeatureStore, extract_to_store

COLORS = ((220, 30, 30), (30, 200, 40), (40, 50, 230))
COUNT = 20
BAD = 7  # this row is no image


def draw(folder: Path) -> Path:
    """Images `00.png` ... of a colour each in turn, with some noise; 19 is a copy of 1."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        noise = generator.integers(-20, 20, (32, 32, 3))
        values = np.clip(np.array(COLORS[index % 3]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{index:02d}.png")
    (folder / f"{BAD:02d}.png").write_text("no image")
    (folder / "19.png").write_bytes((folder / "01.png").read_bytes())
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, shared_pixel_model: StellarModel) -> FeatureStore:
    """Their features, in shards of 6 rows; not to be changed."""
    folder = tmp_path_factory.mktemp("retrieval")
    options = ExtractionOptions(("S", "L", "pooled"), "float32", batch_size=6, shard_rows=6)
    images = draw(folder / "images")
    extract_to_store(
        shared_pixel_model,
        open_sources([images]),
        folder / "store",
        options,
        source_names=[str(images)],
        show_progress=False,
    )
    return FeatureStore(folder / "store")


@pytest.fixture
def rows(store: FeatureStore) -> list[int]:
    """The rows that have features."""
    return store.ok.nonzero().flatten().tolist()


@pytest.fixture
def pooled(store: FeatureStore, rows: list[int]) -> torch.Tensor:
    """Their pooled vectors."""
    return store.read("pooled", rows)
