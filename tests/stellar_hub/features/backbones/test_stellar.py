"""STELLAR models as backbones."""

from pathlib import Path

import pytest
import torch

from stellar_hub.features.backbones import StellarBackbone, open_backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.modeling import StellarImageProcessor, StellarModel


def test_stellar_tiny__is_known_and_has_a_random_twin() -> None:
    model, twin, again, other = (
        open_backbone("stellar-tiny", decoder=False),
        open_backbone("stellar-tiny:random", seed=1),
        open_backbone("stellar-tiny:random", seed=1),
        open_backbone("stellar-tiny:random", seed=2),
    )
    assert isinstance(model, StellarBackbone)
    assert not model.network.can_decode
    assert isinstance(twin, StellarBackbone)
    assert twin.network.can_decode
    assert twin.facts.sha256 == again.facts.sha256 != other.facts.sha256
    assert (twin.facts.seed, twin.facts.weights) == (1, "random, seed 1")
    assert model.facts.preprocessing["crop"] == [128, 128]
    assert model.facts.preprocessing["resize_shortest_edge"] == 146
    assert model.grid_size() == (16, 16)


def test_folder__with_a_stellar_model_is_one(pixel_model: StellarModel, tmp_path: Path) -> None:
    pixel_model.save_pretrained(tmp_path / "mine")
    StellarImageProcessor.from_config(pixel_model.config).save_pretrained(tmp_path / "mine")
    found = open_backbone(str(tmp_path / "mine"))
    assert isinstance(found, StellarBackbone)
    assert found.name == str(tmp_path / "mine")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = pixel_model(images).pooler_output
        torch.testing.assert_close(found.features(images, ["pooled"])["pooled"], expected)


def test_model_in_memory__is_a_backbone_with_its_processor(pixel_model: StellarModel) -> None:
    padded = StellarImageProcessor.from_config(pixel_model.config, fit="pad")
    found = as_backbone(pixel_model, padded)
    assert (found.network, found.processor, found.device) == (pixel_model, padded, pixel_model.device)
    assert found.describe_model().keys() == {"name", "revision", "weights_sha256", "dtype"}
    assert as_backbone(found) is found
    with pytest.raises(ValueError, match="processor must be None"):
        as_backbone(found, padded)
    with pytest.raises(TypeError, match="got str: load it with"):
        as_backbone("stellar-tiny")  # type: ignore[arg-type]
