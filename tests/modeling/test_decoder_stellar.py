from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.decoder_stellar import StellarDecoder


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
