import pytest
import torch
from timm.models._features import feature_take_indices
from torch import Tensor

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.intermediate_layers import collect_intermediates, format_intermediates, take_indices


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
        with pytest.raises(ValueError, match=rf"the last {count} blocks were asked for; the model has 4"):
            take_indices(4, count)

    @pytest.mark.parametrize("index", [4, -5])
    def test_missing_block__is_named_as_given(self, index: int) -> None:
        with pytest.raises(ValueError, match=rf"block {index} was asked for; the model has blocks 0 to 3"):
            take_indices(4, [0, index])


class TestCollect:
    @pytest.mark.parametrize(("stop_early", "expected"), [(True, [0]), (False, [0, 1])])
    def test_stop_early__skips_the_blocks_after_the_last_wanted(
        self, pixel_model: StellarModel, images: Tensor, stop_early: bool, expected: list[int]
    ) -> None:
        ran: list[int] = []
        for index, block in enumerate(pixel_model.encoder.blocks):
            block.register_forward_hook(lambda module, inputs, output, index=index: ran.append(index))
        tokens, collected = collect_intermediates(
            pixel_model.encoder, images, wanted=[0], norm=False, stop_early=stop_early
        )
        assert ran == expected
        assert len(collected) == 1
        assert torch.equal(tokens, collected[0]) == stop_early

    def test_norm__is_the_final_one(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoder = pixel_model.encoder
        _, raw = collect_intermediates(encoder, images, wanted=[0, 1], norm=False, stop_early=False)
        _, normed = collect_intermediates(encoder, images, wanted=[0, 1], norm=True, stop_early=False)
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
