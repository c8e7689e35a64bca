"""Tests of `conversion/layout.py`."""

import pytest
import torch
from stellar_hub.conversion.layout import all_sources, base_sources, has_decoder, head_sources, is_unused
from stellar_hub.modeling import StellarConfig, StellarModel
from torch import Tensor


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
