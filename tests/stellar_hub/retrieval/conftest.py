"""Drawn images of three colours, and a store of what the tiny model sees in them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import open_sources
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import StellarModel
from stellar_hub.store import ExtractionOptions, FeatureStore, Manifest, extract_to_store
from stellar_hub.store.files import write_shard
from stellar_hub.store.fill import complete
from stellar_hub.store.manifest import shard_path
from stellar_hub.store.tensor_format import to_stored

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


def write_store(
    folder: Path, vectors: dict[str, torch.Tensor], like: Manifest, error: str | None = None, dtype: str = "float32"
) -> FeatureStore:
    """A store of given features, as `extract` would write it, in one shard."""
    count = len(next(iter(vectors.values())))
    shapes = {name: list(part.shape[1:]) for name, part in vectors.items()}
    features = dict(like.features) | {"shapes": shapes, "dtype": dtype}
    source = dict(like.source) | {"num_images": count}
    plan = dataclasses.replace(like, features=features, source=source, shard_rows=count, counts=None)
    shard_path(folder, 0).parent.mkdir(parents=True)
    size, box = (None, None) if error else ((1, 1), (0.0, 0.0, 1.0, 1.0))
    records = [ImageRecord(row, f"{row}.jpg", size, box, error) for row in range(count)]
    write_shard(shard_path(folder, 0), range(count), to_stored(vectors, dtype), records, plan.plan)
    complete(folder, plan)
    return FeatureStore(folder)


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
