"""Errors of a pretraining batch: what was seen, what is allowed, the next step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training.model.views import check_views, encode_views, matched_rows

Views = dict[str, Tensor]


def check(views: Views, changed: dict[str, Any] | None = None, **options: Any) -> None:
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "image_size": 32, "patch_size": 8, "use_decoder": False}
    check_views(StellarConfig(**sizes, **options), **{**views, **(changed or {})})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"local_views": None},
        {"kept_patches": None},
        {"kept_patches": torch.arange(16).expand(6, -1)},
        {"local_views": torch.rand(2, 5, 3, 8, 24)},
        {"global_views": torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)},
        {"global_views": torch.rand(2, 3, 3, 32, 32).bfloat16()},
        {"pixel_values": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)},
    ],
)
def test_batches_that_fit__pass(views: Views, changed: dict[str, Any]) -> None:
    check(views, changed)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"pixel_values": [1.0]}, TypeError, r"pixel_values must be a torch\.Tensor"),
    ({"pixel_values": torch.rand(2, 3, 30, 32)}, ValueError, "height of pixel_values .* got 30"),
    ({"pixel_values": 255 * torch.rand(2, 3, 32, 32)}, ValueError, r"pixel_values must lie in \[0, 1\]"),
    ({"global_views": None}, TypeError, r"global_views must be a torch\.Tensor, .* got NoneType"),
    ({"global_views": torch.zeros(2, 3, 3, 32, 32, dtype=torch.int64)}, TypeError, r"or uint8, got torch\.int64"),
    ({"global_views": torch.rand(2, 3, 32, 32)}, ValueError, r"must have shape \(B, V, 3, H, W\) .* got \(2, 3, 32"),
    ({"global_views": torch.rand(3, 3, 3, 32, 32)}, ValueError, "the batch size 2 of pixel_values, got"),
    ({"global_views": torch.rand(2, 0, 3, 32, 32)}, ValueError, "with V >= 1"),
    ({"global_views": torch.rand(2, 3, 1, 32, 32)}, ValueError, "global_views: .* must have 3 channels"),
    (
        {"global_views": torch.rand(2, 3, 3, 16, 32)},
        ValueError,
        "must be of the same size as pixel_values",
    ),
    ({"global_views": 255 * torch.rand(2, 3, 3, 32, 32)}, ValueError, r"global_views must lie in \[0, 1\]"),
    ({"local_views": torch.rand(2, 2, 3, 20, 16)}, ValueError, "local_views: the height .* got 20"),
    ({"local_views": torch.rand(4, 3, 16, 16)}, ValueError, r"local_views must have shape \(B, V, 3, H, W\)"),
    ({"local_views": torch.full((2, 2, 3, 16, 16), torch.nan)}, ValueError, "local_views .* got NaN"),
    ({"kept_patches": torch.zeros(6, 4)}, TypeError, r"of dtype torch\.int64, got torch\.float32"),
    ({"kept_patches": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"\(6, 1 to 16\), got \(2, 4\); the view"),
    ({"kept_patches": torch.zeros(6, 17, dtype=torch.int64)}, ValueError, r"\(6, 1 to 16\), got \(6, 17\)"),
    ({"kept_patches": torch.zeros(6, 0, dtype=torch.int64)}, ValueError, r"got \(6, 0\)"),
    ({"kept_patches": torch.full((6, 1), 16)}, ValueError, r"kept_patches must lie in 0\.\.15, got 16\.\.16"),
    ({"kept_patches": torch.full((6, 1), -1)}, ValueError, r"must lie in 0\.\.15, got -1\.\.-1"),
]


@pytest.mark.parametrize(("changed", "error", "message"), WRONG)
def test_batches_that_do_not_fit__are_named(
    views: Views, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(views, changed)


@pytest.mark.parametrize("options", [{"teacher_momentum": 0.9}, {"use_global_align": True}])
def test_global_view_1__is_asked_for_where_it_is_read(views: Views, options: dict[str, Any]) -> None:
    one = {"global_views": views["global_views"][:, :1], "kept_patches": None}
    check(views, one)
    with pytest.raises(ValueError, match="read global view 1: pass 2 global views or more, got 1"):
        check(views, one, **options)


def test_what_is_switched_off__is_not_looked_at(views: Views) -> None:
    check(views, {"local_views": torch.rand(7)}, use_local_views=False)
    check(views, {"kept_patches": torch.rand(7)}, mask_ratio=None)


def test_one_token__needs_koleo_switched_off(views: Views) -> None:
    with pytest.raises(ValueError, match="needs two, but num_sparse_tokens is 1: set koleo_weight=0"):
        check(views, num_sparse_tokens=1)
    check(views, num_sparse_tokens=1, koleo_weight=0)


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
