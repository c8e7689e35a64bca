"""Errors of a pretraining batch: what was seen, what is allowed, the next step."""

from typing import Any

import pytest
import torch
from stellar_hub.modeling import StellarConfig
from torch import Tensor

from stellar_hub.training.view_checks import check_views

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
    ({"pixel_values": torch.rand(2, 3, 30, 32)}, ValueError, "height of pixel_values, 30, is not a multiple"),
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
    ({"local_views": torch.rand(2, 2, 3, 20, 16)}, ValueError, "local_views: the height .* 20, is not a multiple"),
    ({"local_views": torch.rand(4, 3, 16, 16)}, ValueError, r"local_views must have shape \(B, V, 3, H, W\)"),
    ({"local_views": torch.full((2, 2, 3, 16, 16), torch.nan)}, ValueError, "local_views contains NaN"),
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
