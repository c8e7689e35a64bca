"""SOP's head and memories: embeddings, and sizes that do not fit."""

from typing import Any

import pytest
import torch

from stellar_hub.modeling import StellarConfig
from stellar_hub.training.model.sop_parts import SopHead, build_memories, check_memories

SIZES = {
    "sop_memory_size": 64,
    "sop_num_anchors": 16,
    "sop_num_supports": 3,
    "sop_token_memory_size": 32,
    "sop_num_token_anchors": 8,
}


def config_of(**options: Any) -> StellarConfig:
    sop = {"token_objective": "sop", "teacher_momentum": 0.9, "prototype_dim": 12, "prototype_hidden_size": 24}
    return StellarConfig(**(sop | SIZES | options))


def test_head__is_an_mlp_of_three_layers_with_unit_vectors() -> None:
    head = SopHead(config_of(hidden_size=48, num_attention_heads=4))
    assert [tuple(part.weight.shape) for part in (head.fc1, head.fc2, head.fc3)] == [(24, 48), (24, 24), (12, 24)]
    tokens = torch.randn(2, 5, 48)
    gelu = torch.nn.functional.gelu
    expected = head.fc3(gelu(head.fc2(gelu(head.fc1(tokens)))))
    torch.testing.assert_close(head(tokens), expected / expected.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(head(tokens).norm(dim=-1), torch.ones(2, 5))


def test_embeddings__are_float32_under_autocast() -> None:
    head = SopHead(config_of(hidden_size=48, num_attention_heads=4))
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = head(torch.randn(2, 48))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))


def test_memories__are_those_of_the_configuration() -> None:
    cls, tokens = build_memories(config_of())
    assert cls is not None
    assert tokens is not None
    assert (tuple(cls.rows.shape), tuple(tokens.rows.shape)) == ((64, 12), (32, 12))
    assert build_memories(StellarConfig()) == (None, None)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"sop_memory_size": 15}, 1, r"memory of cls \(sop_memory_size=15, sop_num_anchors=16, .* is too small"),
        ({"sop_num_supports": 50}, 1, "sop_num_supports=50"),
        ({"sop_token_memory_size": 7}, 1, r"memory of tokens \(sop_token_memory_size=7"),
        ({"sop_num_token_supports": 26}, 1, "sop_num_token_supports=26"),
        ({}, 33, r"memory of tokens .* global batch, 33"),
        ({"sop_token_memory_size": 100}, 65, r"memory of cls .* global batch, 65"),
    ],
)
def test_memory_too_small__is_named_with_its_settings(options: dict[str, Any], batch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_memories(config_of(**options), batch)
    assert "\n" not in str(caught.value)


def test_memories_that_just_fit__pass() -> None:
    check_memories(config_of(sop_num_supports=49, sop_num_token_supports=25), 32)
    check_memories(StellarConfig(sop_memory_size=1), 10**6)  # without SOP there are none
