"""Encoding of whole and masked views, and the rows that tokens are matched to."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stellar_hub.modeling import StellarModel
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.training.views import encode_views, matched_rows

Build = Callable[..., StellarModel]


@pytest.fixture
def wide_model(build_model: Build) -> StellarModel:
    """The tiny model in float64."""
    return build_model(reconstruction_head="pixel").double()


class TestEncodeViews:
    def test_whole_views__are_what_the_model_sees(self, shared_pixel_model: StellarModel, images: Tensor) -> None:
        with torch.no_grad():
            found, expected = encode_views(shared_pixel_model.encoder, images), shared_pixel_model(images)
        torch.testing.assert_close(found.cls_token, expected.cls_token, rtol=0, atol=0)
        torch.testing.assert_close(found.patches, expected.patch_features, rtol=0, atol=0)
        torch.testing.assert_close(found.tokens, expected.last_hidden_state, rtol=0, atol=0)

    def test_all_patches_kept__is_the_whole_view(self, wide_model: StellarModel, images: Tensor) -> None:
        order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
        with torch.no_grad():
            whole = encode_views(wide_model.encoder, images.double())
            found = encode_views(wide_model.encoder, images.double(), order)
        torch.testing.assert_close(found.cls_token, whole.cls_token, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.tokens, whole.tokens, rtol=1e-9, atol=1e-11)
        expected = torch.stack([patches[kept] for patches, kept in zip(whole.patches, order, strict=True)])
        torch.testing.assert_close(found.patches, expected, rtol=1e-9, atol=1e-11)

    def test_hidden_patches__have_no_influence(self, shared_pixel_model: StellarModel, images: Tensor) -> None:
        kept = torch.tensor([[0, 5, 15], [3, 2, 1]])
        changed = torch.rand_like(images)
        for view, cells in enumerate(kept.tolist()):
            for row, column in (divmod(cell, 4) for cell in cells):
                area = (view, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                changed[area] = images[area]
        with torch.no_grad():
            first, second = (encode_views(shared_pixel_model.encoder, view, kept) for view in (images, changed))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert first.patches.shape == (2, 3, 48)

    def test_kept_patches__carry_their_own_positions(self, wide_model: StellarModel, images: Tensor) -> None:
        same = images.double().new_full((1, 3, 32, 32), 0.5)  # all patches look alike
        with torch.no_grad():
            corners = [encode_views(wide_model.encoder, same, torch.tensor([[cell]])).patches[0, 0] for cell in (0, 15)]
        assert (corners[0] - corners[1]).abs().max() > 1e-3


class TestMatchedRows:
    def test_rows__find_permuted_tokens_again(self) -> None:
        generator = torch.Generator().manual_seed(0)
        target = 5 * torch.randn(3, 4, 8, generator=generator)
        orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(6)])  # two views of each image
        predicted = torch.stack([target[view // 2][order] for view, order in enumerate(orders)])
        rows = matched_rows(predicted, target, 0.1, 5, use_matching=True)
        expected = (orders + 4 * torch.arange(3).repeat_interleave(2)[:, None]).flatten()
        assert rows.tolist() == expected.tolist()

    def test_rows__without_matching_keep_the_order(self) -> None:
        rows = matched_rows(torch.randn(4, 3, 8), torch.randn(2, 3, 8), 0.1, 5, use_matching=False)
        assert rows.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]

    @given(images=st.integers(1, 3), views=st.integers(1, 3), tokens=st.integers(1, 5), seed=st.integers(0, 99))
    def test_rows__are_match_tokens_of_each_view_and_stay_in_the_image(
        self, images: int, views: int, tokens: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        target = torch.randn(images, tokens, 6, generator=generator)
        predicted = torch.randn(images * views, tokens, 6, generator=generator)
        rows = matched_rows(predicted, target, 0.2, 4, use_matching=True).view(images, views, tokens)
        assert rows.dtype == torch.int64
        for image in range(images):
            for view in range(views):
                index, _ = match_tokens(predicted[[image * views + view]], target[[image]], 0.2, 4)
                assert (rows[image, view] - image * tokens).tolist() == index[0].tolist()
