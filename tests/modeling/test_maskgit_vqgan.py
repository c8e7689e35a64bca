import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder, ResidualBlock, nearest_codes


class TestNearestCodes:
    def test_choice__is_that_of_brute_force(self) -> None:
        latents, codebook = torch.randn(2, 6, 3, 5), torch.randn(20, 6)
        distance = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, 6), codebook)
        expected = distance.argmin(dim=1).view(2, 3, 5)
        torch.testing.assert_close(nearest_codes(latents, codebook), expected, rtol=0, atol=0)

    def test_codes_themselves__are_found(self) -> None:
        codebook, codes = torch.randn(30, 8), torch.randint(30, (2, 4, 3))
        latents = codebook[codes].permute(0, 3, 1, 2)
        torch.testing.assert_close(nearest_codes(latents, codebook), codes, rtol=0, atol=0)


class TestResidualBlock:
    def test_same_width__adds_the_input(self) -> None:
        block = ResidualBlock(32, 32)
        hidden_states = torch.randn(1, 32, 6, 6)
        expected = block.conv1(F.silu(block.norm1(hidden_states)))
        expected = block.conv2(F.silu(block.norm2(expected))) + hidden_states
        assert block.nin_shortcut is None
        torch.testing.assert_close(block(hidden_states), expected, rtol=0, atol=0)

    def test_other_width__applies_the_shortcut_to_its_own_output(self) -> None:
        block = ResidualBlock(32, 64)
        assert block.nin_shortcut is not None
        hidden_states = torch.randn(1, 32, 6, 6)
        output = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(hidden_states))))))
        torch.testing.assert_close(block(hidden_states), output + block.nin_shortcut(output), rtol=0, atol=0)

    def test_parts__are_as_the_trained_weights_expect(self) -> None:
        block = ResidualBlock(32, 64)
        convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        assert [conv.kernel_size for conv in convolutions] == [(3, 3), (3, 3), (1, 1)]
        assert all(conv.bias is None for conv in convolutions)
        assert {(n.num_groups, n.eps) for n in (block.norm1, block.norm2)} == {(32, 1e-6)}


class TestArchitecture:
    @pytest.mark.parametrize("half", [MaskGitVQGANEncoder, MaskGitVQGANDecoder])
    def test_convolutions__pad_as_tensorflow_does(self, half: type[nn.Module]) -> None:
        with torch.device("meta"):
            convolutions = [m for m in half(StellarConfig()).modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) > 20
        for conv in convolutions:
            (kernel, _), (stride, _), size = conv.kernel_size, conv.stride, 37
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            assert isinstance(conv.padding, tuple)
            assert conv.padding[0] == total // 2 == total - total // 2

    def test_published_size__has_54_million_parameters(self) -> None:
        with torch.device("meta"):
            halves = MaskGitVQGANEncoder(StellarConfig()), MaskGitVQGANDecoder(StellarConfig())
        count = sum(parameter.numel() for half in halves for parameter in half.parameters())
        assert round(count / 1e6, 1) == 54.5
        assert halves[1].codebook.weight.shape == (1024, 256)

    def test_biases__are_where_the_checkpoint_has_them(self) -> None:
        with torch.device("meta"):
            halves = {
                "encoder": MaskGitVQGANEncoder(StellarConfig()),
                "decoder": MaskGitVQGANDecoder(StellarConfig()),
            }
        biased = {
            f"{half}.{name.replace('.bias', '')}"
            for half, module in halves.items()
            for name in module.state_dict()
            if name.endswith(".bias") and "norm" not in name
        }
        assert biased == {"encoder.conv_out", "decoder.conv_in", "decoder.conv_out"} | {
            f"decoder.up.{level}.upsample_conv" for level in (1, 2, 3, 4)
        }

    def test_published_size__works_at_sixteen_pixels_per_code(self) -> None:
        with torch.device("meta"):
            encoder, decoder = MaskGitVQGANEncoder(StellarConfig()), MaskGitVQGANDecoder(StellarConfig())
            assert encoder(torch.zeros(1, 3, 256, 224)).shape == (1, 256, 16, 14)
            assert decoder(torch.zeros(1, 16, 14, dtype=torch.int64)).shape == (1, 3, 256, 224)


class TestForward:
    @pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5)])
    def test_decoder__gives_eight_pixels_per_code_in_range(self, vq_model: StellarModel, grid: tuple[int, int]) -> None:
        pixels = vq_model.tokenizer(torch.randint(48, (2, *grid)))
        assert pixels.shape == (2, 3, 8 * grid[0], 8 * grid[1])
        assert pixels.min() >= 0
        assert pixels.max() <= 1

    def test_decoder__clamps(self, vq_model: StellarModel) -> None:
        with torch.no_grad():
            vq_model.tokenizer.conv_out.weight.mul_(1000)
        pixels = vq_model.tokenizer(torch.randint(48, (2, 4, 4)))
        assert (pixels.min().item(), pixels.max().item()) == (0, 1)

    def test_code__changes_the_image_around_its_cell(self, vq_model: StellarModel) -> None:
        codes = torch.zeros(1, 8, 8, dtype=torch.int64)
        other = codes.clone()
        other[0, 0, 7] = 5
        change = (vq_model.tokenizer(other) - vq_model.tokenizer(codes)).abs().mean(dim=1)[0]
        corner, opposite = change[:8, -8:].mean(), change[-8:, :8].mean()
        # Not zero elsewhere: GroupNorm sees the whole image.
        assert corner > 4 * opposite

    def test_encoder__gives_latents_of_one_eighth(self) -> None:
        config = StellarConfig(
            tokenizer_hidden_channels=32,
            tokenizer_channel_mult=[1, 1, 1, 2],
            tokenizer_num_res_blocks=1,
            tokenizer_embed_dim=16,
        )
        assert MaskGitVQGANEncoder(config)(torch.rand(2, 3, 24, 40)).shape == (2, 16, 3, 5)

    def test_tokenizer_of_a_model__is_frozen(self, vq_model: StellarModel) -> None:
        assert not any(parameter.requires_grad for parameter in vq_model.tokenizer.parameters())
        assert all(p.requires_grad for n, p in vq_model.named_parameters() if not n.startswith("tokenizer."))
