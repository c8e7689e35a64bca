"""Starting from timm's ViTs. Names are timm's; the models are made small by its own keywords."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.backbones import (
    backbone_fields,
    backbone_weights,
    fold_normalization,
    load_backbone,
    unsupported_parts,
)
from stellar_hub.modeling.encoder_stellar import StellarEncoder, normalize_pixels

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8, "num_classes": 0}
FITTING = {
    "vit_base_patch16_224.mae": {},
    "vit_base_patch16_224.augreg_in21k": {},  # mean and std of 0.5
    "deit_base_patch16_224.fb_in1k": {},
    "vit_base_patch14_dinov2.lvd142m": {"init_values": 0.3},
}


@pytest.mark.parametrize("name", FITTING)
def test_encoder__computes_what_the_backbone_does(name: str) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(name, **(SMALL | FITTING[name])).eval()
    encoder = StellarEncoder(StellarConfig(num_sparse_tokens=4, use_decoder=False, **backbone_fields(backbone))).eval()
    encoder.load_state_dict(backbone_weights(backbone), strict=False)
    image = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(backbone.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        expected = backbone.forward_features((image - mean) / std)
        # Without the sparse tokens, which the backbone does not have, the sequence is its own.
        actual = encoder.run_blocks(encoder.embed(normalize_pixels(image, torch.float32))[:, :-4])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_from_backbone__takes_weights_from_a_file(tmp_path: Path) -> None:
    backbone = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    model = StellarModel.from_backbone(
        "vit_tiny_patch16_224.augreg_in21k",
        num_sparse_tokens=5,
        pretrained=tmp_path / "weights.pth",
        reconstruction_head="pixel",
    )
    assert model.training
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.num_sparse_tokens) == (192, 12, 5)
    torch.testing.assert_close(model.encoder.pos_embed, backbone.pos_embed, rtol=0, atol=0)
    S, L = model.encode(torch.rand(1, 3, 224, 224))
    assert (S.shape, L.shape) == ((1, 5, 192), (1, 196, 5))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_from_backbone__saves_and_loads_layer_scale(tmp_path: Path) -> None:
    model = StellarModel.from_backbone("vit_small_patch14_dinov2", pretrained=False, use_decoder=False).eval()
    model.save_pretrained(tmp_path)
    again = StellarModel.from_pretrained(tmp_path)
    assert again.config.layer_scale_init_value == pytest.approx(1e-5)
    assert again.config.layer_norm_eps == 1e-6
    image = torch.rand(1, 3, 28, 28)
    torch.testing.assert_close(again.encode(image).semantics, model.encode(image).semantics, rtol=0, atol=0)


def test_from_backbone__with_a_vq_head_says_that_the_tokenizer_is_missing() -> None:
    model = StellarModel.from_backbone("vit_tiny_patch16_224", pretrained=False)
    with pytest.raises(ValueError, match="vqgan="):
        model.decode(*model.encode(torch.rand(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vit_small_patch14_reg4_dinov2", {}, "register tokens"),
        ("vit_base_patch16_siglip_224", {}, "no cls token"),
        ("vit_base_patch16_clip_224", {}, "a norm before the blocks"),
        ("vit_base_patch16_clip_quickgelu_224", {}, "an activation other than exact GELU"),
        ("vit_giant_patch14_dinov2", {}, "a gated or otherwise different MLP"),
        ("deit3_base_patch16_224", {}, "position embeddings that leave out cls"),
        ("swin_tiny_patch4_window7_224", None, "attention in windows"),
        ("eva02_tiny_patch14_224", None, "rotary position embeddings"),
        ("resnet18", None, r"another architecture \(ResNet\)"),
    ],
)
def test_from_backbone__refuses_what_it_cannot_represent(
    name: str, options: dict[str, Any] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options is not None:  # large ViTs are built small
        create = timm.create_model
        small = {"embed_dim": 48, "depth": 1, "num_heads": 3}
        monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **(small | options | kwargs)))
    with pytest.raises(ValueError, match=rf"{name} .*{reason}"):
        StellarModel.from_backbone(name, pretrained=False)


def test_from_backbone__names_models_near_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'vit_base_patch16_225'; .*vit_base_patch16"):
        StellarModel.from_backbone("vit_base_patch16_225", pretrained=False)


def test_load_backbone__names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth.* 'vit_tiny_patch16_224'"):
        load_backbone("vit_tiny_patch16_224", tmp_path / "none.pth")


def test_unsupported_parts__has_nothing_against_a_plain_vit() -> None:
    assert unsupported_parts(timm.create_model("vit_tiny_patch16_224", depth=1)) == []


def test_fold_normalization__is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel, bias = torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, generator=generator)
    image = torch.rand(1, 3, 8, 8, generator=generator)
    folded = fold_normalization(kernel, bias, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    expected = torch.nn.functional.conv2d((image - 0.5) / 0.5, kernel, bias, stride=4)
    actual = torch.nn.functional.conv2d(normalize_pixels(image, torch.float32), *folded, stride=4)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_bse_patch16_224", "does not have a model 'vit_bse_patch16_224'; did you mean 'vit_base_patch16_224'"),
        ("vit_base_patch16_224.maee", r"does not have the weights .*vit_base_patch16_224\.mae"),
        ("timm/vit_bse", "does not have a model 'vit_bse'"),
        ("facebook/dinov2-base", "does not have a model 'facebook/dinov2-base'"),
        ("timm:vit_bse", "does not have a model 'vit_bse'"),
        ("a\x1b[31m", r"does not have a model 'a\\x1b"),
    ],
)
def test_from_backbone__says_which_names_are_similar(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StellarModel.from_backbone(name, pretrained=False)


def test_from_backbone__asks_for_the_name_of_a_module() -> None:
    with pytest.raises(TypeError, match=r"timm's name .*got VisionTransformer.*pretrained=PATH"):
        StellarModel.from_backbone(timm.create_model("test_vit"))  # type: ignore[arg-type]


def test_from_backbone__refuses_a_field_that_the_configuration_does_not_have() -> None:
    with pytest.raises(TypeError, match=r"field 'hiden_size'; did you mean 'hidden_size'"):
        StellarModel.from_backbone("test_vit", pretrained=False, hiden_size=3)


def test_from_backbone__decode_without_a_tokenizer_says_what_to_pass() -> None:
    model = StellarModel.from_backbone("vit_tiny_patch16_224", pretrained=False, decoder_num_hidden_layers=0)
    with pytest.raises(ValueError, match="from_backbone, pass reconstruction_head='pixel'"):
        model.decode(torch.zeros(1, 16, 192), torch.zeros(1, 196, 16))


def test_from_backbone__says_which_weights_could_not_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", fetch)
    with pytest.raises(OSError, match=r"'vit_tiny_patch16_224' could not be loaded .*pretrained=PATH"):
        StellarModel.from_backbone("vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["other.pth", "part.pth", "garbage.pth", "garbage.safetensors", "sizes.pth"])
def test_from_backbone__refuses_a_file_without_the_weights(tmp_path: Path, name: str) -> None:
    state = timm.create_model("test_vit").state_dict()
    path = tmp_path / name
    contents: dict[str, dict[str, Tensor]] = {
        "other.pth": {"x": torch.zeros(3)},
        "part.pth": {key: tensor for key, tensor in state.items() if not key.startswith("blocks.1.")},
        "sizes.pth": state | {"blocks.0.mlp.fc1.weight": torch.zeros(3, 3)},
    }
    if name in contents:
        torch.save(contents[name], path)
    else:
        path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} .*hold weights of 'test_vit'") as caught:
        StellarModel.from_backbone("test_vit", pretrained=path)
    assert "weights_only" not in str(caught.value)
    assert ("blocks.1.attn.qkv.weight" in str(caught.value)) == (name in ("other.pth", "part.pth"))


def test_from_backbone__takes_a_switch_or_a_path_alone() -> None:
    with pytest.raises(TypeError, match="True, False or a path, got NoneType"):
        StellarModel.from_backbone("test_vit", pretrained=None)  # type: ignore[arg-type]
