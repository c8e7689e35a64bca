import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.decoder_stellar import FourierPositionCode, StellarDecoder, fourier_position_code


@pytest.fixture
def low_rank() -> Tensor:
    return torch.randn(2, 12, 48)


class TestForward:
    def test_steps__are_projection_position_blocks_norm(self, pixel_model: StellarModel, low_rank: Tensor) -> None:
        decoder = pixel_model.decoder
        expected = decoder.proj(low_rank) + decoder.position_code((3, 4))
        for block in decoder.blocks:
            expected = block(expected)
        expected = decoder.norm(expected)
        torch.testing.assert_close(decoder(low_rank, (3, 4)), expected, rtol=0, atol=0)

    def test_grid__decides_the_positions(self, pixel_model: StellarModel, low_rank: Tensor) -> None:
        decoder = pixel_model.decoder
        assert (decoder(low_rank, (3, 4)) - decoder(low_rank, (4, 3))).abs().max() > 0.01

    def test_eps__is_that_of_the_config(self, build_model: Callable[..., StellarModel]) -> None:
        decoder = build_model(reconstruction_head="pixel", layer_norm_eps=1e-5).decoder
        norms = [module for module in decoder.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) == 2 * 2 + 1
        assert {norm.eps for norm in norms} == {1e-5}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_model__adds_the_float32_position_code_rounded(
        self, pixel_model: StellarModel, low_rank: Tensor, dtype: torch.dtype
    ) -> None:
        code = pixel_model.decoder.position_code((3, 4))
        decoder = pixel_model.to(dtype).decoder
        decoder.blocks = nn.ModuleList()
        decoder.norm = nn.Identity()
        result = decoder(low_rank.to(dtype), (3, 4))
        assert result.dtype == dtype
        torch.testing.assert_close(result, decoder.proj(low_rank.to(dtype)) + code.to(dtype), rtol=0, atol=0)


class TestPredict:
    def test_vq__gives_logits_of_each_cell(self, vq_model: StellarModel) -> None:
        hidden_states = torch.randn(2, 12, 32)
        logits = vq_model.decoder.predict(hidden_states, (3, 4))
        assert logits.shape == (2, 12, 48)
        head = vq_model.decoder.head
        torch.testing.assert_close(logits, hidden_states @ head.weight.t() + head.bias, rtol=1e-5, atol=1e-6)

    def test_pixel__writes_each_cell_into_its_own_patch(self, pixel_model: StellarModel) -> None:
        decoder = pixel_model.decoder
        empty = decoder.predict(torch.zeros(1, 12, 32), (3, 4))
        hidden_states = torch.zeros(1, 12, 32)
        hidden_states[0, 1 * 4 + 2] = 1  # row 1, column 2
        changed = decoder.predict(hidden_states, (3, 4)) - empty
        assert changed.shape == (1, 3, 24, 32)
        patch = decoder.head.weight.sum(dim=0)  # (3, 8, 8): all 32 inputs are 1
        torch.testing.assert_close(changed[0, :, 8:16, 16:24], patch, rtol=1e-5, atol=1e-6)
        changed[0, :, 8:16, 16:24] = 0
        torch.testing.assert_close(changed, torch.zeros_like(changed), rtol=0, atol=0)

    def test_overlap__adds_half_a_patch_on_each_side(self, build_model: Callable[..., StellarModel]) -> None:
        decoder = build_model(reconstruction_head="pixel", pixel_head_overlap=True).decoder
        assert decoder.head.weight.shape == (32, 3, 16, 16)
        empty = decoder.predict(torch.zeros(1, 12, 32), (3, 4))
        hidden_states = torch.zeros(1, 12, 32)
        hidden_states[0, 1 * 4 + 2] = 1  # row 1, column 2
        changed = decoder.predict(hidden_states, (3, 4)) - empty
        assert changed.shape == (1, 3, 24, 32)
        patch = decoder.head.weight.sum(dim=0)  # (3, 16, 16): all 32 inputs are 1
        torch.testing.assert_close(changed[0, :, 4:20, 12:28], patch, rtol=1e-5, atol=1e-6)
        changed[0, :, 4:20, 12:28] = 0
        torch.testing.assert_close(changed, torch.zeros_like(changed), rtol=0, atol=0)

    def test_overlap_with_zeros_around_a_patch__decodes_the_same(
        self, build_model: Callable[..., StellarModel], pixel_model: StellarModel
    ) -> None:
        wider = build_model(reconstruction_head="pixel", pixel_head_overlap=True)
        state = pixel_model.state_dict()
        state["decoder.head.weight"] = nn.functional.pad(state["decoder.head.weight"], (4, 4, 4, 4))
        wider.load_state_dict(state)
        encoding = pixel_model.encode(torch.rand(2, 3, 24, 32))
        torch.testing.assert_close(wider.decode(encoding), pixel_model.decode(encoding), rtol=1e-5, atol=1e-6)

    def test_pixel__is_not_clamped(self, pixel_model: StellarModel) -> None:
        result = pixel_model.decoder.predict(100 * torch.randn(1, 12, 32), (3, 4))
        assert result.min() < 0
        assert result.max() > 1


class TestSizes:
    def test_published_size__is_six_blocks_of_512(self) -> None:
        with torch.device("meta"):
            decoder = StellarDecoder(StellarConfig())
        block = 4 * 512 + (512 * 1536 + 1536) + (512 * 512 + 512) + (512 * 2048 + 2048) + (2048 * 512 + 512)
        projection, norm, head = 768 * 512 + 512, 2 * 512, 512 * 1024 + 1024
        assert sum(p.numel() for p in decoder.parameters()) == projection + 6 * block + norm + head
        assert decoder.position_code.frequencies.shape == (2, 256)
        assert {block.attn.num_heads for block in decoder.blocks} == {8}


WIDTH = 6


@pytest.fixture
def code() -> FourierPositionCode:
    module = FourierPositionCode(WIDTH)
    module.frequencies.copy_(torch.randn(2, WIDTH // 2, generator=torch.Generator().manual_seed(0)))
    return module


class TestPositionCode:
    def test_values__follow_the_formula_cell_by_cell(self, code: FourierPositionCode) -> None:
        height, width = 2, 3
        result = fourier_position_code(code.frequencies, (height, width))
        for i in range(height):
            for j in range(width):
                x, y = 2 * (j + 0.5) / width - 1, 2 * (i + 0.5) / height - 1
                for k in range(WIDTH // 2):
                    phase = 2 * math.pi * (x * code.frequencies[0, k].item() + y * code.frequencies[1, k].item())
                    pair = torch.tensor([math.sin(phase), math.cos(phase)])
                    torch.testing.assert_close(result[i * width + j, 2 * k : 2 * k + 2], pair, rtol=0, atol=1e-5)

    def test_single_cell__is_the_centre(self, code: FourierPositionCode) -> None:
        expected = torch.tensor([[0.0, 1.0] * (WIDTH // 2)])
        torch.testing.assert_close(fourier_position_code(code.frequencies, (1, 1)), expected, rtol=0, atol=0)

    def test_transposed_grid__swaps_the_axes(self, code: FourierPositionCode) -> None:
        upright = fourier_position_code(code.frequencies, (3, 5)).unflatten(0, (3, 5))
        turned = fourier_position_code(code.frequencies.flip(0), (5, 3)).unflatten(0, (5, 3))
        torch.testing.assert_close(upright, turned.transpose(0, 1), rtol=0, atol=1e-5)

    def test_float64__gives_float64(self, code: FourierPositionCode) -> None:
        exact = fourier_position_code(code.frequencies.double(), (4, 4))
        assert exact.dtype == torch.float64
        torch.testing.assert_close(fourier_position_code(code.frequencies, (4, 4)), exact.float(), rtol=0, atol=1e-5)


class TestPositionCodeAutocast:
    def test_autocast__does_not_coarsen_the_phases(self, code: FourierPositionCode) -> None:
        expected = code((4, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = code((4, 4))
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


class TestPositionCodeDtype:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_model_to_half__frequencies_stay_bit_equal_in_float32(
        self, pixel_model: StellarModel, dtype: torch.dtype
    ) -> None:
        before = pixel_model.decoder.position_code.frequencies.clone()
        pixel_model.to(dtype)
        assert pixel_model.decoder.proj.weight.dtype == dtype
        assert pixel_model.decoder.position_code.frequencies.dtype == torch.float32
        torch.testing.assert_close(pixel_model.decoder.position_code.frequencies, before, rtol=0, atol=0)

    @pytest.mark.parametrize("method", ["half", "bfloat16"])
    def test_method_of_torch__frequencies_stay_float32(self, pixel_model: StellarModel, method: str) -> None:
        getattr(pixel_model, method)()
        assert pixel_model.dtype != torch.float32
        assert pixel_model.decoder.position_code.frequencies.dtype == torch.float32

    def test_double_and_back__ends_in_float32(self, code: FourierPositionCode) -> None:
        before = code.frequencies.clone()
        assert code.double().frequencies.dtype == torch.float64
        assert code.float().frequencies.dtype == torch.float32
        torch.testing.assert_close(code.frequencies, before, rtol=0, atol=0)

    def test_double_to_half__keeps_float32_precision(self, code: FourierPositionCode) -> None:
        before = code.frequencies.clone()
        code.double().half()
        torch.testing.assert_close(code.frequencies, before, rtol=0, atol=0)

    def test_code__is_the_same_in_a_half_model(self, code: FourierPositionCode) -> None:
        expected = code((3, 4))
        torch.testing.assert_close(copy.deepcopy(code).half()((3, 4)), expected, rtol=0, atol=0)


class TestPositionCodeDevice:
    def test_meta_half__stays_float32_on_meta(self) -> None:
        with torch.device("meta"):
            code = FourierPositionCode(WIDTH)
        code.half()
        assert code.frequencies.is_meta
        assert code.frequencies.dtype == torch.float32

    def test_to_meta_in_half__moves_and_stays_float32(self, code: FourierPositionCode) -> None:
        code.to(device="meta", dtype=torch.float16)
        assert code.frequencies.is_meta
        assert code.frequencies.dtype == torch.float32

    def test_materialized_from_meta__takes_values_in_float32(self, code: FourierPositionCode) -> None:
        with torch.device("meta"):
            empty = FourierPositionCode(WIDTH)
        empty.half().to_empty(device="cpu").load_state_dict(code.state_dict())
        torch.testing.assert_close(empty.frequencies, code.frequencies, rtol=0, atol=0)

    def test_frequencies__are_part_of_the_state_dict(self, code: FourierPositionCode) -> None:
        assert set(code.state_dict()) == {"frequencies"}
        assert not list(code.parameters())
