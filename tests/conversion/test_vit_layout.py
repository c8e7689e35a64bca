"""Tests of `conversion/vit_layout.py`."""

import pytest
import torch
from stellar_hub.conversion.vit_layout import count_layers, encoder_sources, layer_sources
from stellar_hub.modeling import StellarConfig
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
