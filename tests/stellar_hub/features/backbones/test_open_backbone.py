"""What users write for a model."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from stellar_hub.features.backbones import open_backbone
from stellar_hub.features.backbones.open_backbone import split_spec
from stellar_hub.features.backbones.pixels import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.backbones.timm_backbone import TimmBackbone
from stellar_hub.features.backbones.transformers_backbone import TransformersBackbone
from stellar_hub.modeling import StellarImageProcessor, StellarModel

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


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("stellar-tiny", ("stellar-tiny", None)),
        ("a:random", ("a", "random")),
        ("a:/x/y.bin", ("a", "/x/y.bin")),
        ("timm:a:random", ("timm:a", "random")),
        ("timm:a", ("timm:a", None)),
    ],
)
def test_spec__is_a_name_and_where_weights_come_from(spec: str, parts: tuple[str, str | None]) -> None:
    assert split_spec(spec) == parts


@pytest.mark.parametrize("spec", ["", ":random", "a:", "timm::random"])
def test_spec__without_a_name_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="NAME, NAME:random or NAME:PATH, got"):
        split_spec(spec)


def test_stellar_tiny__is_known_and_has_a_random_twin() -> None:
    model, twin, again, other = (
        open_backbone("stellar-tiny", decoder=False),
        open_backbone("stellar-tiny:random", seed=1),
        open_backbone("stellar-tiny:random", seed=1),
        open_backbone("stellar-tiny:random", seed=2),
    )
    assert isinstance(model, StellarBackbone)
    assert not model.decodes
    assert isinstance(twin, StellarBackbone)
    assert twin.decodes
    assert twin.facts.sha256 == again.facts.sha256 != other.facts.sha256
    assert (twin.facts.seed, twin.facts.weights) == (1, "random, seed 1")
    assert model.facts.preprocessing["crop"] == [64, 64]
    assert model.facts.preprocessing["resize_shortest_edge"] == 73
    assert model.grid_size() == (8, 8)


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
    with pytest.raises(FileNotFoundError, match=f"no such file with weights for {SMALL_TIMM}: nowhere"):
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


def test_pixels__are_the_image_averaged_and_its_patches() -> None:
    found = open_backbone("pixels")
    assert isinstance(found, PixelBackbone)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = found.features(images, ("pixels", "patches"))
    expected = images.unflatten(3, (16, 4)).unflatten(2, (16, 4)).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(features["pixels"], expected)
    assert features["patches"].shape == (2, 64, 192)
    corner = features["patches"][:, 9]  # the second patch of the second row
    assert torch.equal(corner.sort().values, images[:, :, 8:16, 8:16].flatten(1).sort().values)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("vit_tiny_patch16_224", OSError, "the weights of vit_tiny_patch16_224 could not be fetched .*:random"),
        ("nobody/nothing", OSError, "the weights of nobody/nothing could not be fetched"),
        ("stelar-tiny", ValueError, "no model 'stelar-tiny': .* did you mean 'stellar-tiny'"),
        ("./nowhere", ValueError, r"no model '\./nowhere'"),
        ("timm:vit_tinny", ValueError, "timm knows no model 'vit_tinny'"),
    ],
)
def test_what_is_not_there__is_said_in_one_line(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        open_backbone(spec)
    assert "\n" not in str(raised.value)


def test_random_weights__leave_the_generator_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    open_backbone(f"{SMALL_TIMM}:random")
    assert torch.equal(torch.rand(3), expected)
