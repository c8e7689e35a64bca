import copy

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.inference_layers import GeluLinear, UnfoldedConv2d
from stellar_hub.modeling.inference_variants import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    EXPLICIT_ATTENTION,
    GELU_IN_PRODUCT,
    NOT_CHANGED,
    PACKED,
    PACKED_AND_EXPLICIT,
    UNFOLDED,
    Variant,
    pack_linears,
    parts_of,
)
from stellar_hub.modeling.packed_linear import PackedLinear


@pytest.mark.parametrize("variant", [EXPLICIT_ATTENTION, PACKED, PACKED_AND_EXPLICIT, GELU_IN_PRODUCT])
def test_block__computes_the_same_and_keeps_its_names(variant: Variant) -> None:
    block, hidden_states = Block(32, 2).eval().requires_grad_(False), torch.randn(2, 5, 32)
    changed = copy.deepcopy(block)
    variant.apply(changed)
    torch.testing.assert_close(changed(hidden_states), block(hidden_states), rtol=1e-5, atol=1e-5)
    assert list(changed.state_dict()) == list(block.state_dict())
    assert str(changed) != str(block) or variant == EXPLICIT_ATTENTION


def test_patch_projection__computes_the_same(pixel_model: StellarModel) -> None:
    pixel_model.requires_grad_(False)
    embedding, images = pixel_model.encoder.patch_embed, torch.rand(2, 3, 32, 16)
    expected = embedding.proj(images)
    UNFOLDED.apply(embedding)
    assert isinstance(embedding.proj, UnfoldedConv2d)
    torch.testing.assert_close(embedding.proj(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", [CHANNELS_LAST, CHANNELS_FIRST])
def test_tokenizer__computes_the_same(vq_model: StellarModel, variant: Variant) -> None:
    vq_model.requires_grad_(False)
    codes = torch.randint(48, (2, 4, 3))
    assert vq_model.tokenizer is not None
    expected = vq_model.tokenizer(codes)
    variant.apply(vq_model.tokenizer)
    torch.testing.assert_close(vq_model.tokenizer(codes), expected, rtol=1e-4, atol=1e-5)


def test_variants__may_be_applied_twice(vq_model: StellarModel) -> None:
    vq_model.requires_grad_(False)
    block, hidden_states = vq_model.encoder.blocks[0], torch.randn(2, 5, 48)
    expected = block(hidden_states)
    for _ in range(2):
        GELU_IN_PRODUCT.apply(block)
        UNFOLDED.apply(vq_model.encoder.patch_embed)
    assert isinstance(block.mlp.fc1, GeluLinear)
    for _ in range(2):  # of a model that came from a GPU
        PACKED.apply(block)
        torch.testing.assert_close(block(hidden_states), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(block.mlp.fc1, PackedLinear)


def test_pack_linears__fuses_exact_gelu_alone() -> None:
    exact, rough = Block(32, 2), Block(32, 2, act_layer=lambda: nn.GELU(approximate="tanh"))
    for block in (exact, rough):
        pack_linears(block.requires_grad_(False))
    assert exact.mlp.fc1.gelu
    assert isinstance(exact.mlp.act, nn.Identity)
    assert not rough.mlp.fc1.gelu
    assert isinstance(rough.mlp.act, nn.GELU)


class TestPartsOf:
    def test_cpu__measures_blocks_alone(self, vq_model: StellarModel) -> None:
        parts = parts_of(vq_model)
        assert [part.name for part in parts] == ["encoder", "decoder"]
        assert [len(part.variants) for part in parts] == [4, 4]
        assert [part.make_inputs(3).shape for part in parts] == [(3, 16 + 1 + 4, 48), (3, 16, 32)]

    def test_gpu__measures_projection_and_tokenizer_too(
        self, vq_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(StellarModel, "device", torch.device("cuda"))
        names = {dtype: [part.name for part in parts_of(vq_model.to(dtype))] for dtype in (torch.float32, torch.half)}
        assert names[torch.float32] == ["patch projection", "tokenizer"]
        assert names[torch.half] == ["encoder", "decoder", "patch projection", "tokenizer"]

    def test_plain_way__is_first_of_all(self, vq_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(StellarModel, "device", torch.device("cuda"))
        assert {part.variants[0] for part in parts_of(vq_model.bfloat16())} == {NOT_CHANGED}
