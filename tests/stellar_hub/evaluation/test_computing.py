"""Features on disk."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.evaluation.computing import FeatureCache, RunSettings, extract_features
from stellar_hub.features.backbones.backbone import prepare_image
from stellar_hub.features.backbones.pixels import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.processes import Processes


def test_rows__are_those_of_their_key(tmp_path: Path) -> None:
    rows = torch.rand(3, 2)
    cache = FeatureCache(tmp_path / "cache", {"weights": "a", "images": "b"})
    assert cache.read("cls", 0, 3) is None
    cache.write("cls", 0, 3, rows)
    again = FeatureCache(tmp_path / "cache", {"images": "b", "weights": "a"})
    assert torch.equal(again.read("cls", 0, 3), rows)  # type: ignore[arg-type]
    assert again.read("cls", 3, 6) is None
    assert again.read("patches", 0, 3) is None
    assert FeatureCache(tmp_path / "cache", {"weights": "c", "images": "b"}).read("cls", 0, 3) is None
    assert json.loads((cache.folder / "key.json").read_text()) == {"weights": "a", "images": "b"}


def test_damaged_files__are_as_if_they_were_not_there(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, {})
    cache.write("cls", 0, 3, torch.rand(3, 2))
    (file,) = cache.folder.glob("cls/*")
    whole = file.read_bytes()
    for damaged in (b"", whole[:20], whole[:-5]):
        file.write_bytes(damaged)
        assert cache.read("cls", 0, 3) is None
    cache.write("cls", 0, 3, torch.rand(2, 2))  # rows of another number
    assert cache.read("cls", 0, 3) is None


def test_full_disk__leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write("cls", 0, 3, torch.rand(3, 2))
    assert list(cache.folder.glob("cls/*")) == []
    assert list(cache.folder.glob("cls/.*")) == []


def test_file_in_the_place_of_the_folder__is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        FeatureCache(tmp_path / "cache", {})


class Stopping(PixelBackbone):
    """Counts batches, and stops at one of them as if it were interrupted."""

    batches = 0
    stop_at = 1000

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        self.batches += 1
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        return super().features(pixel_values, names)


def test_features__are_the_models_in_the_order_of_the_images(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings
) -> None:
    names = (*tiny.poolings, *tiny.dense)
    found = extract_features(tiny, train.images, names, run)
    images = torch.stack([prepare_image(tiny.processor, train.images[index]) for index in range(13)])
    with torch.inference_mode():
        output = tiny.network(images)
    expected = {
        "pooled": output.pooler_output,
        "cls": output.cls_token,
        "patches_mean": output.patch_features.mean(dim=1),
        "S": output.last_hidden_state,
        "patches": output.patch_features,
        "Z": output.localization @ output.last_hidden_state,
        "L": output.localization,
    }
    assert found.keys() == expected.keys()
    for name, feature in expected.items():
        torch.testing.assert_close(found[name], feature, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes__make_the_bits_that_one_makes(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    together = extract_features(tiny, train.images, ("cls",), run)["cls"]
    monkeypatch.setattr(Processes, "raise_together", lambda self, error: None)
    monkeypatch.setattr("stellar_hub.evaluation.computing.gather", lambda name, made, processes: made)
    rows = []
    for index in range(count):
        alone = replace(run, processes=Processes(index, count))
        rows += [batch["cls"] for batch in extract_features(tiny, train.images, ("cls",), alone)["cls"]]  # type: ignore[call-overload]
    assert torch.equal(torch.cat(rows), together)


def test_interrupted_runs__go_on_from_the_features_they_have(
    train: LabelledImages, run: RunSettings, tmp_path: Path
) -> None:
    kept = replace(run, cache=tmp_path / "cache")
    whole = extract_features(PixelBackbone.load(), train.images, ("pixels",), run, "data")
    first, second, third, other = (Stopping.load() for _ in range(4))
    first.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        extract_features(first, train.images, ("pixels",), kept, "data")
    found = extract_features(second, train.images, ("pixels",), kept, "data")
    assert second.batches == 2  # type: ignore[attr-defined]  # of four, two were there
    assert torch.equal(found["pixels"], whole["pixels"])
    extract_features(third, train.images, ("pixels",), kept, "data")
    assert third.batches == 0  # type: ignore[attr-defined]
    extract_features(other, train.images, ("pixels",), kept, "other data")
    assert other.batches == 4  # type: ignore[attr-defined]


def test_views__are_their_seeds_and_of_one_size(train: LabelledImages, pixels: PixelBackbone, run: RunSettings) -> None:
    first, second = AugmentedView(1, seed=3), AugmentedView(2, seed=3)
    features = [
        extract_features(pixels, train.images, ("pixels",), run, view=view)["pixels"] for view in (first, first, second)
    ]
    assert features[0].shape == (13, 768)
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2])


def test_a_image_that_cannot_be_read__is_named(pixels: PixelBackbone, run: RunSettings, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
        extract_features(pixels, [tmp_path / "bad.png"], ("pixels",), run)


def test_workers__read_the_same_images(pixels: PixelBackbone, train: LabelledImages, run: RunSettings) -> None:
    alone = extract_features(pixels, train.images, ("pixels",), run)
    helped = extract_features(pixels, train.images, ("pixels",), replace(run, num_workers=1))
    assert torch.equal(alone["pixels"], helped["pixels"])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}])
def test_settings__out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1 and num_workers at least 0"):
        RunSettings(**options)  # type: ignore[arg-type]
