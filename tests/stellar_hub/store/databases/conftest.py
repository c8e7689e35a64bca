"""Stores of random features, exact late interaction, and no network."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from stellar_hub.features.identity import sha256_of_json
from stellar_hub.features.rows import ImageRecord
from stellar_hub.store import FeatureStore, Manifest
from stellar_hub.store.files import write_shard
from stellar_hub.store.manifest import shard_path
from stellar_hub.store.to_store import complete

COUNT, TOKENS, WIDTH = 60, 4, 12
BAD = (3, 41)
SHARD_ROWS = 16
BuildStore = Callable[..., FeatureStore]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each attempt to connect to anything an error."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a test reaches for the network: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def record_of(row: int, bad: tuple[int, ...]) -> ImageRecord:
    error = "no image" if row in bad else None
    size, box = (None, None) if error else ((40, 60), (0.0, 10.0, 40.0, 50.0))
    return ImageRecord(row, f"/photos/class{row % 3}/{row:04d} ü'\".png", size, box, error)


@pytest.fixture
def build_store(tmp_path: Path) -> BuildStore:
    """Writes a store of random features, as `extract` would: `build_store("name", count=60, model="one", fit="crop")`.

    Arrays that are passed by the name of a feature are its values.
    """

    def build(
        name: str = "store",
        count: int = COUNT,
        bad: tuple[int, ...] = BAD,
        model: str = "one",
        fit: str = "crop",
        width: int = WIDTH,
        **values: torch.Tensor,
    ) -> FeatureStore:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(count, TOKENS, width, generator=generator)
        features = values or {"S": tokens, "pooled": tokens.mean(dim=1)}
        shapes = {name: list(part.shape[1:]) for name, part in features.items()}
        for part in features.values():
            part[[row for row in bad if row < count]] = torch.nan
        manifest = Manifest(
            library="stellar_hub 0",
            model={"name": model, "revision": None, "weights_sha256": sha256_of_json(model), "dtype": "float32"},
            preprocessing={"id": sha256_of_json({"fit": fit}), "settings": {"fit": fit}},
            features={
                "shapes": shapes,
                "dtype": "float32",
                "precision": "float32",
                "batch_size": 1,
                "grid_size": [2, 2],
            },
            source={"fingerprint": "0", "names": ["photos"], "num_images": count},
            shard_rows=SHARD_ROWS,
        )
        folder = tmp_path / name
        shard_path(folder, 0).parent.mkdir(parents=True)
        for number in range(manifest.num_shards):
            rows = manifest.rows_of_shard(number)
            parts = {name: part[rows.start : rows.stop] for name, part in features.items()}
            records = [record_of(row, bad) for row in rows]
            write_shard(shard_path(folder, number), rows, parts, records, manifest.plan)
        complete(folder, manifest)
        return FeatureStore(folder)

    return build


@pytest.fixture
def store(build_store: BuildStore) -> FeatureStore:
    """A store of 60 rows in shards of 16, of which 3 and 41 have an error: S `(4, 12)` and pooled `(12,)`."""
    return build_store()


@pytest.fixture
def queries() -> np.ndarray:
    """100 sets of tokens, `(100, 4, 12)`."""
    return np.random.default_rng(1).normal(size=(100, TOKENS, WIDTH)).astype(np.float32)


@pytest.fixture
def best_rows() -> Callable[..., list[list[int]]]:
    """The rows of a store most like each query: by MaxSim, computed with the formula itself."""

    def search(store: FeatureStore, queries: np.ndarray, count: int = 10) -> list[list[int]]:
        rows = store.ok.nonzero().flatten()
        tokens = normalize(store.read("S", rows), dim=-1)
        cosines = torch.einsum("qrd,ntd->qnrt", normalize(torch.from_numpy(queries), dim=-1), tokens)
        best: Any = cosines.amax(dim=-1).sum(dim=-1).topk(count).indices
        return rows[best].tolist()

    return search
