import sys
from types import SimpleNamespace

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from stellar_hub.modeling import float8
from stellar_hub.modeling.float8 import (
    MAX_DIFFERENCE_OF_FLOAT8,
    MIN_SAME_TOKEN,
    check_float8,
    convert_linears,
    keeps_encoding,
    linears,
)
from stellar_hub.modeling.inference_timing import relative_difference

CUDA = torch.device("cuda")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


class TestCheckFloat8:
    def test_cpu__is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a CUDA device"):
            check_float8(torch.device("cpu"))

    def test_gpu_without_float8__is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10")
        with pytest.raises(ValueError, match=r"capability 8\.9 or above, and this is NVIDIA A10"):
            check_float8(CUDA)

    @pytest.mark.usefixtures("hopper")
    def test_missing_torchao__is_named_with_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchao.quantization", None)
        with pytest.raises(ImportError, match=r"stellar_hub\[quantization\]"):
            check_float8(CUDA)


class TestConvertLinears:
    @pytest.fixture
    def converted(self, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
        """The layers that torchao was asked to convert."""
        found: list[nn.Module] = []
        stand_in = SimpleNamespace(
            PerRow=lambda: "row",
            Float8DynamicActivationFloat8WeightConfig=SimpleNamespace,
            quantize_=lambda part, config, filter_fn: found.extend(m for m in part.modules() if filter_fn(m, "")),
        )
        monkeypatch.setattr(float8, "import_module", lambda name: stand_in)
        return found

    def test_layers__are_those_of_attention_and_mlp(self, converted: list[nn.Module]) -> None:
        block = Block(32, 2)
        convert_linears(block)
        assert converted == [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]

    def test_mlp_only__leaves_attention(self, converted: list[nn.Module]) -> None:
        block = Block(32, 2)
        convert_linears(block, mlp_only=True)
        assert converted == [block.mlp.fc1, block.mlp.fc2]

    def test_sides_that_float8_cannot_have__are_left_out(self) -> None:
        layers = nn.Sequential(nn.Linear(24, 32), nn.Linear(32, 16))
        assert list(linears(layers)) == [layers[1]]


class TestKeepsEncoding:
    def encoding(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, 4, 16, generator=generator), torch.rand(2, 50, 4, generator=generator)

    def test_same__is_kept(self) -> None:
        kept, closeness = keeps_encoding(self.encoding(), self.encoding())
        assert kept
        assert "1.0000" in closeness

    def test_other_semantics__are_not(self) -> None:
        semantics, localization = self.encoding()
        noisy = semantics + 0.3 * torch.randn(semantics.shape, generator=torch.Generator().manual_seed(1))
        assert not keeps_encoding((noisy, localization), (semantics, localization))[0]

    def test_patches_of_other_tokens__are_not(self) -> None:
        semantics, localization = self.encoding()
        moved = localization.clone()
        count = round(50 * (1 - MIN_SAME_TOKEN)) + 2
        moved[:, :count] = moved[:, :count].roll(1, dims=-1)
        assert not keeps_encoding((semantics, moved), (semantics, localization))[0]

    def test_nan__is_not(self) -> None:
        semantics, localization = self.encoding()
        assert not keeps_encoding((semantics * float("nan"), localization), (semantics, localization))[0]


@pytest.mark.gpu
def test_block__stays_close_on_a_gpu() -> None:
    pytest.importorskip("torchao.quantization")
    block = Block(64, 2).eval().requires_grad_(False).to(CUDA, torch.bfloat16)
    hidden_states = torch.randn(4, 32, 64, device=CUDA, dtype=torch.bfloat16)
    expected = block(hidden_states)
    convert_linears(block)
    assert relative_difference((block(hidden_states),), (expected,)) < MAX_DIFFERENCE_OF_FLOAT8
