"""Tests of `conversion/infer_config.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.conversion.infer_config import infer_config
from stellar_hub.modeling import StellarConfig

StateDict = dict[str, Tensor]

PUBLISHED = {
    "stellar-b16": {},
    "stellar-l16": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "stellar-h16": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14},
    "stellar-b8": {"num_sparse_tokens": 8},
    "stellar-b24": {"num_sparse_tokens": 24},
}


def tiny(state_dict: StateDict, **options: Any) -> StellarConfig:
    """The configuration with the tiny checkpoints' numbers of heads, unless others are given."""
    given = {"num_attention_heads": 3, "decoder_num_attention_heads": 4} | options
    return infer_config(state_dict, given["num_attention_heads"], given["decoder_num_attention_heads"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_infer_config__knows_the_published_models(name: str, on_meta: Callable[[str], StateDict]) -> None:
    options = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 224,
        "num_sparse_tokens": 16,
        "decoder_hidden_size": 512,
        "decoder_num_hidden_layers": 6,
        "decoder_num_attention_heads": 8,
        "decoder_intermediate_size": 2048,
        "reconstruction_head": "vq",
        "codebook_size": 1024,
        "use_tokenizer": False,
        "num_prototypes": 16384,
        "prototype_dim": 256,
        "prototype_hidden_size": 2048,
        "teacher_momentum": None,
    } | PUBLISHED[name]
    expected = StellarConfig(**options)
    assert expected.intermediate_size == 4 * options["hidden_size"]
    assert infer_config(on_meta(name), None, None).to_dict() == expected.to_dict()


def test_infer_config__meets_the_tiny_configuration(vq: StateDict, vqgan: StateDict, golden_dir: Path) -> None:
    meta = json.loads((golden_dir / "meta.json").read_text())
    config = tiny(vq | {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}).to_dict()
    assert {name: config[name] for name in meta["encoder"]} == meta["encoder"]
    assert {name: config[f"decoder_{name}"] for name in meta["decoder"]} == meta["decoder"]
    assert {name: config[f"tokenizer_{name}"] for name in ("hidden_channels", "channel_mult", "num_res_blocks")} == {
        name: meta["vqgan"][name] for name in ("hidden_channels", "channel_mult", "num_res_blocks")
    }
    assert config["tokenizer_embed_dim"] == meta["vqgan"]["z_channels"]
    assert config["decoder_num_hidden_layers"] == meta["num_decoder_layers"]
    assert (config["num_prototypes"], config["prototype_dim"]) == (meta["num_clusters"], meta["prototype_dim"])
    for name in ("num_sparse_tokens", "codebook_size", "spatial_temp", "layer_norm_eps"):
        assert config[name] == meta[name]
    assert config["use_tokenizer"]
    assert config["reconstruction_head"] == "vq"


def test_infer_config__sees_a_pixel_head_which_uses_no_tokenizer(pixel: StateDict, vqgan: StateDict) -> None:
    config = tiny(pixel | {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()})
    assert config.reconstruction_head == "pixel"
    assert not config.use_tokenizer


def test_infer_config__sees_that_there_is_no_decoder(vq: StateDict) -> None:
    config = tiny({name: tensor for name, tensor in vq.items() if not name.startswith("decoder.")})
    assert not config.use_decoder
    assert not config.use_tokenizer


def test_infer_config__sees_a_decoder_without_blocks(vq: StateDict) -> None:
    config = tiny({name: tensor for name, tensor in vq.items() if not name.startswith("decoder.encoder.")})
    assert config.use_decoder
    assert config.decoder_num_hidden_layers == 0


def test_infer_config__turns_the_teacher_on(pixel: StateDict, teacher: StateDict) -> None:
    assert tiny(pixel).teacher_momentum is None
    assert tiny(pixel | teacher).teacher_momentum == 0.996


@pytest.mark.parametrize("present", ["clustering_head", "cls_cluster_head"])
def test_infer_config__reads_prototypes_off_either_head(present: str, vq: StateDict) -> None:
    other = {"clustering_head", "cls_cluster_head"} - {present}
    config = tiny({name: tensor for name, tensor in vq.items() if not name.startswith(tuple(f"{o}." for o in other))})
    assert (config.num_prototypes, config.prototype_dim, config.prototype_hidden_size) == (64, 16, 2048)


def test_infer_config__keeps_the_default_prototypes_where_there_are_no_heads(vq: StateDict) -> None:
    config = tiny({name: tensor for name, tensor in vq.items() if "cluster" not in name})
    assert config.num_prototypes == StellarConfig().num_prototypes


def test_infer_config__reads_mlp_widths_that_are_not_four_times(vq: StateDict) -> None:
    for source, width, inner in (("encoder", 48, 100), ("decoder", 32, 72)):
        for index in range(2):
            layer = f"{source}.encoder.layer.{index}"
            vq[f"{layer}.intermediate.dense.weight"] = torch.empty(inner, width)
            vq[f"{layer}.intermediate.dense.bias"] = torch.empty(inner)
            vq[f"{layer}.output.dense.weight"] = torch.empty(width, inner)
    config = tiny(vq)
    assert (config.intermediate_size, config.decoder_intermediate_size) == (100, 72)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_infer_config__knows_the_heads_of_usual_widths(width: int, heads: int, vq: StateDict) -> None:
    vq["sparse_tokens"] = torch.empty(4, width)
    vq["encoder.embeddings.cls_token"] = torch.empty(1, 1, width)
    assert tiny(vq, num_attention_heads=None).num_attention_heads == heads
    assert tiny(vq, num_attention_heads=2).num_attention_heads == 2


def test_infer_config__knows_the_heads_of_the_usual_decoder(vq: StateDict) -> None:
    for name in ("decoder_proj.weight", "decoder_proj.bias", "decoder.layernorm.bias"):
        vq[name] = torch.empty(512, *vq[name].shape[1:])
    assert tiny(vq, decoder_num_attention_heads=None).decoder_num_attention_heads == 8
    assert tiny(vq, decoder_num_attention_heads=16).decoder_num_attention_heads == 16


@pytest.mark.parametrize(
    ("argument", "width"),
    [("num_attention_heads", 48), ("decoder_num_attention_heads", 32)],
    ids=["encoder", "decoder"],
)
def test_infer_config__names_the_argument_for_an_unknown_width(argument: str, width: int, vq: StateDict) -> None:
    with pytest.raises(ValueError, match=rf"width {width} .*{argument}="):
        tiny(vq, **{argument: None})


def test_infer_config__needs_no_decoder_heads_without_a_decoder(vq: StateDict) -> None:
    features = {name: tensor for name, tensor in vq.items() if not name.startswith("decoder.")}
    assert tiny(features, decoder_num_attention_heads=None).num_attention_heads == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads 5, got 48"),
        ({"decoder_num_attention_heads": 5}, "decoder_num_attention_heads 5, got 32"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
    ],
)
def test_infer_config__refuses_heads_that_do_not_fit(options: dict[str, int], message: str, vq: StateDict) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(vq, **options)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("sparse_tokens", (4, 49)),
        ("encoder.embeddings.cls_token", (48,)),
        ("encoder.encoder.layer.0.intermediate.dense.weight", (193, 48)),
        ("decoder.layernorm.bias", ()),
        ("decoder.encoder.layer.0.intermediate.dense.bias", (1,)),
        ("clustering_head.layer.weight", (64, 17)),
    ],
)
def test_infer_config__is_not_misled_by_one_misshapen_tensor(name: str, shape: tuple[int, ...], vq: StateDict) -> None:
    assert tiny(vq | {name: torch.empty(shape)}).to_dict() == tiny(vq).to_dict()


@pytest.mark.parametrize(
    "name",
    [
        "encoder.embeddings.cls_token",
        "encoder.encoder.layer.0.intermediate.dense.weight",
        "reconstruction_head.weight",
        "clustering_head.layer.weight",
    ],
)
def test_infer_config__is_not_misled_by_one_missing_tensor(name: str, vq: StateDict) -> None:
    right = tiny(vq).to_dict()
    del vq[name]
    assert tiny(vq).to_dict() == right


@pytest.mark.parametrize("what", ["vqgan", "teacher"])
def test_infer_config__refuses_what_is_no_stellar_checkpoint(what: str, request: pytest.FixtureRequest) -> None:
    tensors = request.getfixturevalue(what)
    with pytest.raises(ValueError, match=rf"STELLAR checkpoint: .* got {next(iter(tensors))}"):
        tiny(tensors)
