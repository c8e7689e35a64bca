"""Features of all pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.evaluation.backbones.backbone import prepare_picture
from stellar_hub.evaluation.backbones.pixels import PixelBackbone
from stellar_hub.evaluation.backbones.stellar import StellarBackbone
from stellar_hub.evaluation.features import RunSettings, extract_features
from stellar_hub.evaluation.features.views import AugmentedView
from stellar_hub.evaluation.processes import Processes


class Stopping(PixelBackbone):
    """Counts batches, and stops at one of them as if it were interrupted."""

    batches = 0
    stop_at = 1000

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        self.batches += 1
        if self.batches == self.stop_at:
            raise KeyboardInterrupt
        return super().features(pixel_values, names)


def test_features__are_the_models_in_the_order_of_the_pictures(
    tiny: StellarBackbone, train: LabelledPictures, run: RunSettings
) -> None:
    names = (*tiny.poolings, *tiny.dense)
    found = extract_features(tiny, train.pictures, names, run)
    images = torch.stack([prepare_picture(tiny.processor, train.pictures[index]) for index in range(13)])
    with torch.inference_mode():
        output = tiny.network(images)
    expected = {
        "S-mean": output.pooler_output,
        "cls": output.cls_token,
        "patches-mean": output.patch_features.mean(dim=1),
        "S-set": output.last_hidden_state,
        "patches": output.patch_features,
        "Z": output.localization @ output.last_hidden_state,
        "L": output.localization,
    }
    assert found.keys() == expected.keys()
    for name, feature in expected.items():
        torch.testing.assert_close(found[name], feature, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes__make_the_bits_that_one_makes(
    tiny: StellarBackbone, train: LabelledPictures, run: RunSettings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    together = extract_features(tiny, train.pictures, ("cls",), run)["cls"]
    monkeypatch.setattr(Processes, "raise_together", lambda self, error: None)
    monkeypatch.setattr("stellar_hub.evaluation.features.extraction.gather", lambda name, made, processes: made)
    rows = []
    for index in range(count):
        alone = replace(run, processes=Processes(index, count))
        rows += [batch["cls"] for batch in extract_features(tiny, train.pictures, ("cls",), alone)["cls"]]  # type: ignore[call-overload]
    assert torch.equal(torch.cat(rows), together)


def test_interrupted_runs__go_on_from_the_features_they_have(
    train: LabelledPictures, run: RunSettings, tmp_path: Path
) -> None:
    kept = replace(run, cache=tmp_path / "cache")
    whole = extract_features(PixelBackbone.load(), train.pictures, ("pixels",), run, "data")
    first, second, third, other = (Stopping.load() for _ in range(4))
    first.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        extract_features(first, train.pictures, ("pixels",), kept, "data")
    found = extract_features(second, train.pictures, ("pixels",), kept, "data")
    assert second.batches == 2  # type: ignore[attr-defined]  # of four, two were there
    assert torch.equal(found["pixels"], whole["pixels"])
    extract_features(third, train.pictures, ("pixels",), kept, "data")
    assert third.batches == 0  # type: ignore[attr-defined]
    extract_features(other, train.pictures, ("pixels",), kept, "other data")
    assert other.batches == 4  # type: ignore[attr-defined]


def test_views__are_their_seeds_and_of_one_size(
    train: LabelledPictures, pixels: PixelBackbone, run: RunSettings
) -> None:
    first, second = AugmentedView(1, seed=3), AugmentedView(2, seed=3)
    features = [
        extract_features(pixels, train.pictures, ("pixels",), run, view=view)["pixels"]
        for view in (first, first, second)
    ]
    assert features[0].shape == (13, 768)
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2])


def test_a_picture_that_cannot_be_read__is_named(pixels: PixelBackbone, run: RunSettings, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as a picture"):
        extract_features(pixels, [tmp_path / "bad.png"], ("pixels",), run)


def test_workers__read_the_same_pictures(pixels: PixelBackbone, train: LabelledPictures, run: RunSettings) -> None:
    alone = extract_features(pixels, train.pictures, ("pixels",), run)
    helped = extract_features(pixels, train.pictures, ("pixels",), replace(run, num_workers=1))
    assert torch.equal(alone["pixels"], helped["pixels"])


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}])
def test_settings__out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1 and num_workers at least 0"):
        RunSettings(**options)  # type: ignore[arg-type]
