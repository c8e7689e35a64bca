"""Backbones of timm and of transformers."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from stellar_hub.features.backbones import TimmBackbone, TransformersBackbone, open_backbone

SMALL_TIMM = "test_vit"  # timm's own, for tests: 64 wide, 160 pixels


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    """A tiny ViT of transformers'."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("name", [f"{SMALL_TIMM}:random", f"timm:{SMALL_TIMM}:random"])
def test_timm__is_known_with_its_size_mean_and_std(name: str) -> None:
    found = open_backbone(name, seed=3)
    assert isinstance(found, TimmBackbone)
    facts = found.facts.preprocessing
    assert facts["crop"] == [160, 160]
    assert len(facts["mean"]) == len(facts["std"]) == 3
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        features = found.features(images, ("cls", "patches_mean", "patches"))
        mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
        expected = found.network.forward_features((images - mean) / std)  # type: ignore[operator]
    torch.testing.assert_close(features["cls"], expected[:, 0])
    torch.testing.assert_close(features["patches"], expected[:, 1:])
    torch.testing.assert_close(features["patches_mean"], expected[:, 1:].mean(dim=1))
    assert found.grid_size() == (10, 10)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_timm__models_with_maps_have_patches_and_no_cls(name: str) -> None:
    found = open_backbone(f"{name}:random")
    assert found.poolings == ("patches_mean",)
    images = torch.rand(1, 3, *found.facts.preprocessing["crop"])
    with torch.no_grad():
        features = found.features(images, ("patches", "patches_mean"))
        grid = found.grid_size()
    assert features["patches"].shape[1] == grid[0] * grid[1]
    torch.testing.assert_close(features["patches"].mean(dim=1), features["patches_mean"])


def test_timm__reads_weights_of_a_file(tmp_path: Path) -> None:
    source = open_backbone(f"{SMALL_TIMM}:random", seed=5)
    weights = copy.deepcopy(source.network.state_dict())
    save_file(weights, tmp_path / "weights.safetensors")
    found = open_backbone(f"{SMALL_TIMM}:{tmp_path / 'weights.safetensors'}")
    assert found.facts.sha256 == source.facts.sha256
    with pytest.raises(FileNotFoundError, match=f"{SMALL_TIMM}: nowhere"):
        open_backbone(f"{SMALL_TIMM}:nowhere")


@pytest.mark.parametrize("suffix", ["", ":random"])
def test_transformers__folder_is_known(vit_folder: Path, suffix: str) -> None:
    found = open_backbone(f"{vit_folder}{suffix}")
    assert isinstance(found, TransformersBackbone)
    assert found.poolings == ("cls", "patches_mean")
    assert found.grid_size() == (4, 4)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = found.features(images, ("cls", "patches"))
        mean, std = (torch.tensor(found.facts.preprocessing[key])[:, None, None] for key in ("mean", "std"))
        expected = found.network(pixel_values=(images - mean) / std).last_hidden_state
    torch.testing.assert_close(features["cls"], expected[:, 0])
    torch.testing.assert_close(features["patches"], expected[:, 1:])
