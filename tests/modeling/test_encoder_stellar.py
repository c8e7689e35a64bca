from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tvF

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.encoder_stellar import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    StellarEncoder,
    format_intermediates,
    mlp_ratio,
    normalize_pixels,
    take_indices,
)


@pytest.fixture
def encoder(pixel_model: StellarModel) -> StellarEncoder:
    return pixel_model.encoder


@pytest.fixture
def pixels(images: Tensor) -> Tensor:
    return normalize_pixels(images, torch.float32)


class TestNormalizePixels:
    def test_values__are_those_of_torchvision(self, images: Tensor) -> None:
        expected = tvF.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
        torch.testing.assert_close(normalize_pixels(images, torch.float32), expected, rtol=1e-6, atol=1e-6)

    def test_uint8__is_divided_by_255(self) -> None:
        values = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
        expected = normalize_pixels(values.float() / 255, torch.float32)
        torch.testing.assert_close(normalize_pixels(values, torch.float32), expected, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_result__is_rounded_once_from_float32(self, images: Tensor, dtype: torch.dtype) -> None:
        expected = normalize_pixels(images, torch.float32).to(dtype)
        torch.testing.assert_close(normalize_pixels(images, dtype), expected, rtol=0, atol=0)

    def test_half_input__is_normalized_in_float32(self, images: Tensor) -> None:
        half = images.half()
        expected = normalize_pixels(half.float(), torch.float32)
        torch.testing.assert_close(normalize_pixels(half, torch.float32), expected, rtol=0, atol=0)

    def test_argument__is_not_changed(self, images: Tensor) -> None:
        before = images.clone()
        normalize_pixels(images, torch.float32)
        torch.testing.assert_close(images, before, rtol=0, atol=0)


class TestArchitecture:
    @pytest.mark.parametrize(("intermediate", "hidden"), [(192, 48), (100, 48), (3073, 768), (5120, 1280), (1, 48)])
    def test_mlp_ratio__gives_timm_exactly_this_width(self, intermediate: int, hidden: int) -> None:
        assert int(hidden * mlp_ratio(intermediate, hidden)) == intermediate

    def test_intermediate_size__is_built(self, build_model: Callable[..., StellarModel]) -> None:
        model = build_model(intermediate_size=100, decoder_intermediate_size=70, reconstruction_head="pixel")
        assert {block.mlp.fc1.out_features for block in model.encoder.blocks} == {100}
        assert {block.mlp.fc1.out_features for block in model.decoder.blocks} == {70}

    def test_blocks__are_plain_pre_norm_vit(self, encoder: StellarEncoder) -> None:
        norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
        assert len(norms) == 2 * 2 + 1
        assert {norm.eps for norm in norms} == {1e-12}
        assert all(block.attn.qkv.bias is not None for block in encoder.blocks)
        assert {block.mlp.act.approximate for block in encoder.blocks} == {"none"}
        assert not [module for module in encoder.modules() if isinstance(module, LayerScale)]
        assert all(module.p == 0 for module in encoder.modules() if isinstance(module, nn.Dropout))

    def test_parameters__are_these_and_no_others(self, encoder: StellarEncoder) -> None:
        shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters() if not name.startswith("blocks.")}
        assert shapes == {
            "cls_token": (1, 1, 48),
            "pos_embed": (1, 17, 48),
            "sparse_tokens": (4, 48),
            "patch_embed.proj.weight": (48, 3, 8, 8),
            "patch_embed.proj.bias": (48,),
            "norm.weight": (48,),
            "norm.bias": (48,),
        }

    def test_published_size__has_the_parameters_of_vit_b16(self) -> None:
        with torch.device("meta"):
            encoder = StellarEncoder(StellarConfig())
        # ViT-B/16 without head: 85 798 656; sparse tokens: 16 x 768.
        assert sum(p.numel() for p in encoder.parameters()) == 85_798_656 + 16 * 768


class TestEmbed:
    def test_sequence__is_cls_then_patches_then_sparse(self, encoder: StellarEncoder, pixels: Tensor) -> None:
        tokens = encoder.embed(pixels)
        assert tokens.shape == (2, 1 + 16 + 4, 48)
        cls_token = (encoder.cls_token + encoder.pos_embed[:, :1])[0]
        torch.testing.assert_close(tokens[:, :1], cls_token.expand(2, 1, -1), rtol=0, atol=0)
        patches = encoder.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + encoder.pos_embed[:, 1:]
        torch.testing.assert_close(tokens[:, 1:17], patches, rtol=0, atol=0)

    def test_sparse_tokens__have_no_position(self, encoder: StellarEncoder, pixels: Tensor) -> None:
        tokens = encoder.embed(pixels)[:, 17:]
        torch.testing.assert_close(tokens, encoder.sparse_tokens.expand(2, -1, -1), rtol=0, atol=0)

    @pytest.mark.parametrize("grid", [(1, 1), (2, 2), (6, 5), (8, 4), (4, 4)])
    def test_other_sizes__resample_positions_bicubically_and_keep_cls(
        self, encoder: StellarEncoder, grid: tuple[int, int]
    ) -> None:
        with torch.no_grad():
            encoder.patch_embed.proj.weight.zero_()
            encoder.patch_embed.proj.bias.zero_()
            encoder.cls_token.zero_()
            tokens = encoder.embed(torch.zeros(1, 3, 8 * grid[0], 8 * grid[1]))
        square = encoder.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        resampled = F.interpolate(square, size=grid, mode="bicubic", align_corners=False, antialias=False)
        torch.testing.assert_close(tokens[:, 1:-4], resampled.flatten(2).transpose(1, 2), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(tokens[:, :1], encoder.pos_embed[:, :1], rtol=0, atol=0)

    def test_half_model__resamples_positions_in_float32(self, encoder: StellarEncoder) -> None:
        with torch.no_grad():
            encoder.bfloat16()
            encoder.patch_embed.proj.weight.zero_()
            encoder.patch_embed.proj.bias.zero_()
            tokens = encoder.embed(torch.zeros(1, 3, 48, 40, dtype=torch.bfloat16))
        square = encoder.pos_embed[:, 1:].float().transpose(1, 2).unflatten(2, (4, 4))
        expected = F.interpolate(square, size=(6, 5), mode="bicubic", align_corners=False).bfloat16()
        assert tokens.dtype == torch.bfloat16
        torch.testing.assert_close(tokens[:, 1:-4], expected.flatten(2).transpose(1, 2), rtol=0, atol=0)


class TestForward:
    def test_outputs__are_the_split_of_the_normed_sequence(self, encoder: StellarEncoder, pixels: Tensor) -> None:
        tokens = encoder.embed(pixels)
        for block in encoder.blocks:
            tokens = block(tokens)
        tokens = encoder.norm(tokens)
        cls_token, patches, sparse = encoder(pixels)
        torch.testing.assert_close(torch.cat([cls_token, patches, sparse], dim=1), tokens, rtol=0, atol=0)
        assert [part.shape[1] for part in (cls_token, patches, sparse)] == [1, 16, 4]

    def test_sparse_tokens__are_a_set(self, encoder: StellarEncoder, pixels: Tensor) -> None:
        order = torch.tensor([2, 0, 3, 1])
        cls_token, patches, sparse = encoder(pixels)
        with torch.no_grad():
            encoder.sparse_tokens.copy_(encoder.sparse_tokens[order])
        turned = encoder(pixels)
        # Attention sums in another order: a few units in the last place of values around 1.
        torch.testing.assert_close(turned[0], cls_token, rtol=0, atol=1e-5)
        torch.testing.assert_close(turned[1], patches, rtol=0, atol=1e-5)
        torch.testing.assert_close(turned[2], sparse[:, order], rtol=0, atol=1e-5)

    def test_every_parameter__takes_part(self, encoder: StellarEncoder, pixels: Tensor) -> None:
        sum(part.square().sum() * (i + 1) for i, part in enumerate(encoder(pixels))).backward()
        without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []


class TestTakeIndices:
    @pytest.mark.parametrize(
        ("indices", "expected"),
        [
            (None, [0, 1, 2, 3]),
            (1, [3]),
            (3, [1, 2, 3]),
            ([0, 2], [0, 2]),
            ((3, 1), [1, 3]),
            ([-1, 0], [0, 3]),
            ([2, 2, -2], [2]),
        ],
    )
    def test_notation__is_that_of_timm(
        self, indices: int | list[int] | tuple[int, ...] | None, expected: list[int]
    ) -> None:
        assert take_indices(4, indices) == expected
        assert sorted(set(feature_take_indices(4, indices)[0])) == expected

    def test_empty_list__takes_none(self) -> None:
        assert take_indices(4, []) == []

    @pytest.mark.parametrize("count", [0, -1, 5])
    def test_wrong_count__names_it(self, count: int) -> None:
        with pytest.raises(ValueError, match=rf"indices={count} .* 4"):
            take_indices(4, count)

    @pytest.mark.parametrize("index", [4, -5])
    def test_missing_block__is_named_as_given(self, index: int) -> None:
        with pytest.raises(ValueError, match=rf"block {index}, .* 0 to 3"):
            take_indices(4, [0, index])


class TestCollect:
    @pytest.mark.parametrize(("stop_early", "expected"), [(True, [0]), (False, [0, 1])])
    def test_stop_early__skips_the_blocks_after_the_last_wanted(
        self, pixel_model: StellarModel, images: Tensor, stop_early: bool, expected: list[int]
    ) -> None:
        ran: list[int] = []
        for index, block in enumerate(pixel_model.encoder.blocks):
            block.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
        tokens, collected = pixel_model.encoder(images, [0], stop_early=stop_early)
        assert ran == expected
        assert len(collected) == 1
        assert (tokens is None) == stop_early

    def test_norm__is_the_final_one(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoder = pixel_model.encoder
        _, raw = encoder(images, [0, 1])
        _, normed = encoder(images, [0, 1], norm=True)
        for before, after in zip(raw, normed, strict=True):
            torch.testing.assert_close(after, encoder.norm(before), rtol=0, atol=0)


class TestFormat:
    def test_nchw__puts_patches_on_their_grid_height_first(self) -> None:
        patches = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 2)
        parts = [(torch.zeros(1, 1, 2), patches, torch.zeros(1, 4, 2))]
        maps = format_intermediates(parts, (2, 3), "NCHW", return_prefix_tokens=False)
        expected = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).expand(1, 2, 2, 3)
        torch.testing.assert_close(maps[0], expected, rtol=0, atol=0)

    def test_nlc_with_prefix__pairs_patches_with_cls(self) -> None:
        cls_token, patches = torch.randn(1, 1, 2), torch.randn(1, 6, 2)
        ((features, prefix),) = format_intermediates(
            [(cls_token, patches, torch.zeros(1, 4, 2))], (2, 3), "NLC", return_prefix_tokens=True
        )
        torch.testing.assert_close(features, patches, rtol=0, atol=0)
        torch.testing.assert_close(prefix, cls_token, rtol=0, atol=0)
