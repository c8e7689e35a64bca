"""Tests of `conversion/layout.py`."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from stellar_hub.conversion.layout import (
    all_sources,
    base_sources,
    count_layers,
    encoder_sources,
    has_decoder,
    head_sources,
    is_unused,
    layer_sources,
    published_name,
    with_published_names,
)
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.encoder_stellar import StellarEncoder


def test_layer_sources__stacks_query_key_and_value_in_timms_order() -> None:
    table = layer_sources("decoder", "stellar.decoder", 2)
    attention = "decoder.encoder.layer.1.attention.attention"
    for kind in ("weight", "bias"):
        expected = [f"{attention}.query.{kind}", f"{attention}.key.{kind}", f"{attention}.value.{kind}"]
        assert table[f"stellar.decoder.blocks.1.attn.qkv.{kind}"] == expected


def test_layer_sources__maps_everything_else_one_to_one() -> None:
    table = layer_sources("encoder", "ours", 1)
    layer = "encoder.encoder.layer.0"
    assert {target: sources for target, sources in table.items() if "qkv" not in target and "weight" in target} == {
        "ours.blocks.0.norm1.weight": [f"{layer}.layernorm_before.weight"],
        "ours.blocks.0.attn.proj.weight": [f"{layer}.attention.output.dense.weight"],
        "ours.blocks.0.norm2.weight": [f"{layer}.layernorm_after.weight"],
        "ours.blocks.0.mlp.fc1.weight": [f"{layer}.intermediate.dense.weight"],
        "ours.blocks.0.mlp.fc2.weight": [f"{layer}.output.dense.weight"],
        "ours.norm.weight": ["encoder.layernorm.weight"],
    }


@pytest.mark.parametrize("num_layers", [1, 12])
def test_encoder_sources__fills_the_encoder_exactly(num_layers: int) -> None:
    with torch.device("meta"):
        encoder = StellarEncoder(StellarConfig(num_hidden_layers=num_layers))
    table = encoder_sources("encoder", "ours", num_layers, "sparse_tokens")
    assert table.keys() == {f"ours.{name}" for name in encoder.state_dict()}


def test_encoder_sources__uses_no_tensor_twice_and_all_that_are_used(layouts: dict[str, dict[str, list[int]]]) -> None:
    table = encoder_sources("encoder", "ours", 12, "sparse_tokens")
    used = [name for sources in table.values() for name in sources]
    published = {name for name in layouts["stellar-b16"] if name.startswith("encoder.") and "pooler" not in name}
    assert sorted(used) == sorted(published | {"sparse_tokens"})


@pytest.mark.parametrize(("name", "count"), [("stellar-b16", 12), ("stellar-l16", 24), ("stellar-h16", 32)])
def test_count_layers__counts_the_published(name: str, count: int, layouts: dict[str, dict[str, list[int]]]) -> None:
    tensors = {tensor: torch.empty(0) for tensor in layouts[name]}
    assert count_layers(tensors, "encoder") == count
    assert count_layers(tensors, "decoder") == 6


def test_count_layers__goes_by_the_highest_so_that_a_gap_is_noticed() -> None:
    assert (
        count_layers({"encoder.encoder.layer.10.x": torch.empty(0), "encoder.layer.77.x": torch.empty(0)}, "encoder")
        == 11
    )


def test_count_layers__is_zero_where_there_are_none() -> None:
    assert count_layers({"encoder.encoder.layer.0.x": torch.empty(0)}, "decoder") == 0
    assert count_layers({"decoder.encoder.layer.first.x": torch.empty(0)}, "decoder") == 0


WRAPPED = (
    "model.{}",
    "module.{}",
    "module._orig_mod.model.{}",
    "model._orig_mod._fsdp_wrapped_module.{}",
)


@pytest.mark.parametrize("name", ["stellar-b16", "stellar-l16", "stellar-h16", "stellar-b8", "stellar-b24"])
def test_published_name__leaves_published_names_alone(name: str, layouts: dict[str, dict[str, list[int]]]) -> None:
    assert {tensor: published_name(tensor) for tensor in layouts[name]} == {tensor: tensor for tensor in layouts[name]}


def test_published_name__leaves_the_tokenizer_alone(layouts: dict[str, dict[str, list[int]]]) -> None:
    names = [f"tokenizer.{name}" for name in layouts["maskgit-vqgan-imagenet-f16-256"]]
    names.append("tokenizer.decoder.attention.q_proj.weight")
    assert [published_name(name) for name in names] == names


@pytest.mark.parametrize("pattern", WRAPPED)
def test_published_name__takes_wrappers_off_the_front(pattern: str) -> None:
    for name in ("sparse_tokens", "encoder.encoder.layer.0.output.dense.bias", "tokenizer.decoder.conv_in.weight"):
        assert published_name(pattern.format(name)) == name


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_published_name__takes_wrappers_out_of_the_middle(wrapper: str) -> None:
    wrapped = f"model.encoder.encoder.layer.3.{wrapper}.attention.{wrapper}.output.dense.weight"
    assert published_name(wrapped) == "encoder.encoder.layer.3.attention.output.dense.weight"


@pytest.mark.parametrize("name", ["encoder.submodule.weight", "my_model.weight", "remodel.x", "encoder.model.weight"])
def test_published_name__leaves_names_that_only_resemble_wrappers(name: str) -> None:
    assert published_name(name) == name


@pytest.mark.parametrize("prefix", ["", "model."])
def test_published_name__undoes_the_names_of_newer_transformers(
    prefix: str,
    layouts: dict[str, dict[str, list[int]]],
    teacher: dict[str, Tensor],
    newer_name: Callable[[str], str],
) -> None:
    names = [*layouts["stellar-b16"], *teacher]
    newer = [newer_name(name) for name in names]
    assert sum(old != new for old, new in zip(names, newer, strict=True)) == 16 * (12 + 6 + 2)
    assert [published_name(prefix + name) for name in newer] == names


def test_published_name__undoes_newer_names_behind_the_older_path() -> None:
    assert published_name("encoder.encoder.layers.2.mlp.fc2.bias") == "encoder.encoder.layer.2.output.dense.bias"


@pytest.mark.parametrize("source", ["encoder", "teacher_encoder"])
def test_published_name__understands_the_installed_transformers(
    source: str, layouts: dict[str, dict[str, list[int]]]
) -> None:
    with torch.device("meta"):
        vit = ViTModel(ViTConfig(num_hidden_layers=12))
    published = {name for name in layouts["stellar-b16"] if name.startswith("encoder.")}
    expected = {name.replace("encoder.", f"{source}.", 1) for name in published}
    assert {published_name(f"{source}.{name}") for name in vit.state_dict()} == expected


def test_with_published_names__keeps_the_tensors(vq: dict[str, Tensor], newer_name: Callable[[str], str]) -> None:
    renamed = with_published_names({f"model.{newer_name(name)}": tensor for name, tensor in vq.items()})
    assert list(renamed) == list(vq)
    assert all(renamed[name] is vq[name] for name in vq)


@pytest.mark.parametrize("other", ["model.sparse_tokens", "module.model.sparse_tokens"])
def test_with_published_names__refuses_two_of_one_name(other: str) -> None:
    tensor = torch.zeros(1)
    with pytest.raises(ValueError, match=f"'sparse_tokens' twice, as '{other}'"):
        with_published_names({"sparse_tokens": tensor, other: tensor})


def test_with_published_names__refuses_older_and_newer_names_together(
    vq: dict[str, Tensor], newer_name: Callable[[str], str]
) -> None:
    name = "encoder.encoder.layer.1.intermediate.dense.bias"
    with pytest.raises(ValueError, match=re.escape(f"{name!r} twice, as {newer_name(name)!r}")):
        with_published_names(vq | {newer_name(name): vq[name]})


def model_names(config: StellarConfig) -> set[str]:
    with torch.device("meta"):
        return {f"stellar.{name}" for name in StellarModel(config).state_dict()}


@pytest.mark.parametrize(
    "name",
    [
        "encoder.pooler.dense.weight",
        "decoder.pooler.dense.bias",
        "decoder.embeddings.cls_token",
        "decoder.embeddings.patch_embeddings.projection.weight",
        "teacher_encoder.pooler.dense.weight",
    ],
)
def test_is_unused__knows_what_the_authors_never_use(name: str) -> None:
    assert is_unused(name, StellarConfig())


@pytest.mark.parametrize(
    "name",
    ["encoder.embeddings.cls_token", "decoder_proj.weight", "pooler.dense.weight", "encoder.poolers", "decoder.norm"],
)
def test_is_unused__knows_nothing_else(name: str) -> None:
    assert not is_unused(name, StellarConfig())


@pytest.mark.parametrize(
    "name",
    ["decoder_proj.bias", "position_embedding.positional_encoding_gaussian_matrix", "reconstruction_head.weight"],
)
def test_is_unused__drops_the_decoders_company_only_without_a_decoder(name: str) -> None:
    assert is_unused(name, StellarConfig(use_decoder=False))
    assert not is_unused(name, StellarConfig())


def test_has_decoder__goes_by_the_decoders_vit() -> None:
    assert has_decoder(["encoder.layernorm.bias", "decoder.layernorm.bias"])
    assert not has_decoder(["encoder.layernorm.bias", "decoder_proj.weight", "reconstruction_head.bias"])


@pytest.mark.parametrize("head", ["vq", "pixel"])
@pytest.mark.parametrize("use_decoder", [True, False])
def test_base_sources__fills_the_model_exactly(head: str, use_decoder: bool) -> None:
    config = StellarConfig(reconstruction_head=head, use_decoder=use_decoder, use_tokenizer=False)
    assert base_sources(config).keys() == model_names(config)


def test_head_sources__maps_mlp_and_prototypes() -> None:
    assert head_sources("cls_cluster_head", "cls_clustering_head") == {
        "cls_clustering_head.prototypes.weight": ["cls_cluster_head.layer.weight"],
        "cls_clustering_head.mlp.fc1.weight": ["cls_cluster_head.predictor.layers.0.weight"],
        "cls_clustering_head.mlp.fc1.bias": ["cls_cluster_head.predictor.layers.0.bias"],
        "cls_clustering_head.mlp.fc2.weight": ["cls_cluster_head.predictor.layers.2.weight"],
        "cls_clustering_head.mlp.fc2.bias": ["cls_cluster_head.predictor.layers.2.bias"],
    }


@pytest.mark.parametrize("name", ["stellar-b16", "stellar-l16", "stellar-h16"])
def test_all_sources__uses_every_published_tensor_once_or_knows_it_unused(
    name: str, layouts: dict[str, dict[str, list[int]]]
) -> None:
    layers = {"stellar-b16": 12, "stellar-l16": 24, "stellar-h16": 32}[name]
    config = StellarConfig(num_hidden_layers=layers, use_tokenizer=False)
    used = [source for sources in all_sources(config, set(layouts[name])).values() for source in sources]
    unused = [tensor for tensor in layouts[name] if is_unused(tensor, config)]
    assert sorted(used + unused) == sorted(layouts[name])
    assert len(unused) == 8


def test_all_sources__takes_clustering_heads_only_where_they_are() -> None:
    config = StellarConfig(use_tokenizer=False)
    assert all_sources(config, {"encoder.layernorm.bias", "clustering_head_of_mine"}).keys() == model_names(config)
    table = all_sources(config, {"cls_cluster_head.layer.weight"})
    assert {target.split(".")[0] for target in table} == {"stellar", "cls_clustering_head"}


def test_all_sources__takes_the_teacher_as_a_whole(teacher: dict[str, Tensor]) -> None:
    config = StellarConfig(num_hidden_layers=2, use_decoder=False, use_tokenizer=False, teacher_momentum=0.9)
    table = all_sources(config, set(teacher))
    ours = {target: sources for target, sources in table.items() if target.startswith("teacher.")}
    used = {source for sources in ours.values() for source in sources}
    assert used == {name for name in teacher if "pooler" not in name}
    assert ours["teacher.encoder.sparse_tokens"] == ["teacher_sparse_tokens"]
    assert ours["teacher.clustering_head.prototypes.weight"] == ["teacher_head.layer.weight"]
    assert ours["teacher.cls_clustering_head.mlp.fc2.bias"] == ["teacher_cls_head.predictor.layers.2.bias"]


def test_all_sources__takes_the_tokenizer_where_the_model_has_one() -> None:
    table = all_sources(StellarConfig(), set())
    assert table["stellar.tokenizer.codebook.weight"] == ["tokenizer.quantize.embedding.weight"]
    assert not [target for target in all_sources(StellarConfig(use_tokenizer=False), set()) if "tokenizer" in target]


@pytest.mark.parametrize("number", ["99999999999", "1024", "9" * 5000])
@pytest.mark.parametrize("part", ["encoder", "decoder", "teacher_encoder"])
def test_count_layers__refuses_numbers_above_the_limit(part: str, number: str) -> None:
    with pytest.raises(ValueError, match=rf"'{part}\.encoder\.layer\..*STELLAR_HUB_MAX_CONFIG_LAYERS") as caught:
        count_layers({f"{part}.encoder.layer.{number}.x": torch.empty(0)}, part)
    assert len(str(caught.value)) < 1000


def test_count_layers__passes_digits_of_other_scripts_over() -> None:
    assert count_layers({"encoder.encoder.layer.\u00b2.x": torch.empty(0)}, "encoder") == 0
