"""Features of the protocols: computed, shared by processes, and kept in the cache."""

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.evaluation import cached_features
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.features import Processes
from stellar_hub.features.backbones import PixelBackbone, StellarBackbone
from stellar_hub.features.backbones.backbone import pixel_values_of
from stellar_hub.store import FeatureStore


class Stopping(PixelBackbone):
    """Counts batches, and stops at one of them as if it were interrupted."""

    batches = 0
    stop_at = 1000

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        self.batches += 1
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        return super().features(pixel_values, names)


def batches_of(run: RunSettings, train: LabelledImages, names: tuple[str, ...] = ("pixels",), **options: Any) -> int:
    """How many batches a run computes."""
    backbone = Stopping.load()
    all_features(backbone, train.images, names, run, **options)
    return backbone.batches  # type: ignore[attr-defined]


@pytest.fixture
def cached(run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """The settings with a cache, whose stores have a shard for each batch."""
    monkeypatch.setattr(cached_features, "SHARD_ROWS", 4)
    return replace(run, cache=tmp_path / "cache")


def test_features__are_the_models_in_the_order_of_the_images(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings
) -> None:
    names = tiny.feature_names
    found = all_features(tiny, train.images, names, run)
    images = torch.stack([pixel_values_of(tiny.processor, train.images[index]) for index in range(13)])
    with torch.inference_mode():
        expected = [tiny.features(part, names) for part in images.split(4)]
    assert tuple(found) == names
    for name in names:
        assert torch.equal(found[name], torch.cat([part[name] for part in expected]))


@pytest.mark.parametrize("count", [2, 5])
def test_processes__make_the_bits_that_one_makes(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    together = all_features(tiny, train.images, ("cls",), run)["cls"]
    monkeypatch.setattr(Processes, "raise_together", lambda self, error: None)
    monkeypatch.setattr(Processes, "gather_rows", lambda self, rows: rows)
    each = [replace(run, processes=Processes(rank, count)) for rank in range(count)]
    rows = [all_features(tiny, train.images, ("cls",), alone)["cls"] for alone in each]
    assert torch.equal(torch.cat(rows), together)


def test_cache__gives_the_same_bits_and_computes_nothing_again(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings, cached: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("pooled", "S", "patches_mean")
    expected = all_features(tiny, train.images, names, run)
    first = all_features(tiny, train.images, names, cached, "data")
    monkeypatch.setattr(tiny, "features", None)
    again = all_features(tiny, train.images, names, cached, "data")
    part = all_features(tiny, train.images, ("S",), cached, "data")
    for name in names:
        assert torch.equal(first[name], expected[name])
        assert torch.equal(again[name], expected[name])
    assert torch.equal(part["S"], expected["S"])


def test_cache__is_a_feature_store(train: LabelledImages, cached: RunSettings) -> None:
    view = AugmentedView(1, seed=3)
    backbone = PixelBackbone.load()
    expected = all_features(backbone, train.images, ("pixels", "patches"), cached, "data", view=view)
    (manifest,) = (cached.cache or Path()).rglob("manifest.json")
    store = FeatureStore(manifest.parent)
    assert store.verify() == []
    assert store.outputs == ("patches", "pixels")
    assert torch.equal(store.read("pixels", range(13)), expected["pixels"])
    assert (store.manifest.model["kind"], store.manifest.model["name"]) == ("pixels", "pixels")
    assert store.manifest.model["weights_sha256"] == backbone.facts.sha256
    assert store.manifest.preprocessing["settings"] == backbone.facts.preprocessing
    assert (store.manifest.features["device"], store.manifest.features["view"]["seed"]) == ("cpu", 3)
    assert store.manifest.source["fingerprint"] == "data"


def test_interrupted_runs__resume(train: LabelledImages, run: RunSettings, cached: RunSettings) -> None:
    expected = all_features(PixelBackbone.load(), train.images, ("pixels",), run)
    first = Stopping.load()
    first.stop_at = 4  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        all_features(first, train.images, ("pixels",), cached, "data")
    assert 0 < batches_of(cached, train, data_hash="data") < 4
    found = all_features(PixelBackbone.load(), train.images, ("pixels",), cached, "data")
    assert torch.equal(found["pixels"], expected["pixels"])


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({}, {"data_hash": "other"}),
        ({}, {"data_hash": "data", "view": AugmentedView(1)}),
        ({"batch_size": 5}, {"data_hash": "data"}),
    ],
)
def test_cache__tells_other_images_views_features_and_batches(
    train: LabelledImages, cached: RunSettings, changed: dict[str, Any], options: dict[str, Any]
) -> None:
    assert batches_of(cached, train, data_hash="data") == 4
    assert batches_of(replace(cached, **changed), train, **options) > 0
    assert batches_of(cached, train, data_hash="data") == 0


def test_exchanged_images_of_equal_size__are_not_taken_from_the_cache(cached: RunSettings, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.bmp" for number in range(3)]
    found = []
    for color in (10, 200):
        for path in paths:
            times = path.stat() if path.exists() else None
            Image.new("RGB", (40, 40), (color, color, color)).save(path)
            if times is not None:
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        found.append(all_features(PixelBackbone.load(), paths, ("pixels",), cached)["pixels"])
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("name", ["000001.safetensors", "index.parquet", "manifest.json"])
def test_damaged_cache__is_computed_again(train: LabelledImages, cached: RunSettings, name: str) -> None:
    expected = all_features(PixelBackbone.load(), train.images, ("pixels",), cached, "data")
    (file,) = (cached.cache or Path()).rglob(name)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert batches_of(cached, train, data_hash="data") == (1 if name.startswith("0") else 0)
    assert file.read_bytes() == whole
    found = all_features(PixelBackbone.load(), train.images, ("pixels",), cached, "data")
    assert torch.equal(found["pixels"], expected["pixels"])


def test_full_disk__ends_the_run(train: LabelledImages, cached: RunSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        all_features(PixelBackbone.load(), train.images, ("pixels",), cached, "data")


def test_file_in_the_place_of_the_cache__is_refused(train: LabelledImages, cached: RunSettings) -> None:
    (cached.cache or Path()).write_text("mine")
    with pytest.raises(FileExistsError, match="--cache"):
        all_features(PixelBackbone.load(), train.images, ("pixels",), cached, "data")


def test_views__follow_from_their_seeds(train: LabelledImages, pixels: PixelBackbone, run: RunSettings) -> None:
    first, second = AugmentedView(1, seed=3), AugmentedView(2, seed=3)
    features = [
        all_features(pixels, train.images, ("pixels",), run, view=view)["pixels"] for view in (first, first, second)
    ]
    assert features[0].shape == (13, 768)
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2])


@pytest.mark.parametrize("keep", [False, True])
def test_image_that_cannot_be_read__ends_the_run(
    pixels: PixelBackbone, run: RunSettings, tmp_path: Path, keep: bool
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    settings = replace(run, cache=tmp_path / "cache") if keep else run
    with pytest.raises(ValueError, match=r"bad\.png"):
        all_features(pixels, [tmp_path / "bad.png"], ("pixels",), settings)


def test_workers__read_the_same_images(pixels: PixelBackbone, train: LabelledImages, run: RunSettings) -> None:
    alone = all_features(pixels, train.images, ("pixels",), run)
    helped = all_features(pixels, train.images, ("pixels",), replace(run, num_workers=1))
    assert torch.equal(alone["pixels"], helped["pixels"])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}])
def test_settings__out_of_range_are_refused(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        RunSettings(**options)  # type: ignore[arg-type]
