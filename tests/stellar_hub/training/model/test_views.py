"""The views of a batch: kept patches, checks of the inputs, the encoding."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.encoder_stellar import normalize_pixels
from stellar_hub.training.model.views import (
    check_views,
    draw_kept_patches,
    encode_views,
    encode_with_mask_tokens,
    focal_bump,
    is_in_block,
    num_kept_patches,
    patch_positions,
)

STRATEGIES = ["focal", "uniform", "block"]
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(kept: Tensor, width: int) -> Tensor:
    """Mean distance of two kept patches, `(num_views,)`."""
    places = torch.stack([kept // width, kept % width], dim=-1).double()
    return torch.cdist(places, places).mean(dim=(1, 2))


@given(
    grid=GRIDS,
    ratio=st.floats(0, 1, exclude_max=True),
    strategy=st.sampled_from(STRATEGIES),
    num_views=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_kept_patches__are_as_many_as_asked_distinct_and_on_the_grid(
    grid: tuple[int, int], ratio: float, strategy: Any, num_views: int, seed: int
) -> None:
    kept = draw_kept_patches(num_views, grid, ratio, strategy, generator=seeded(seed))
    assert kept.dtype == torch.int64
    assert kept.shape == (num_views, num_kept_patches(grid[0] * grid[1], ratio))
    assert all(len(set(view)) == len(view) for view in kept.tolist())
    assert ((kept >= 0) & (kept < grid[0] * grid[1])).all()


@pytest.mark.parametrize(
    ("num_patches", "ratio", "kept"), [(196, 0.8, 39), (196, 0.6, 78), (196, 0.75, 49), (9, 0.99, 1), (9, 0.0, 9)]
)
def test_num_kept_patches__rounds_down_but_keeps_one(num_patches: int, ratio: float, kept: int) -> None:
    assert num_kept_patches(num_patches, ratio) == kept


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draws__are_the_generators(strategy: Any) -> None:
    first = draw_kept_patches(5, (6, 8), 0.8, strategy, generator=seeded())
    torch.manual_seed(77)  # the global generator has no part in it
    assert torch.equal(first, draw_kept_patches(5, (6, 8), 0.8, strategy, generator=seeded()))
    assert not torch.equal(first, draw_kept_patches(5, (6, 8), 0.8, strategy, generator=seeded(1)))


def test_draws__are_the_global_generators_by_default() -> None:
    torch.manual_seed(0)
    default = draw_kept_patches(3, (4, 4), 0.5)
    assert torch.equal(default, draw_kept_patches(3, (4, 4), 0.5, generator=seeded()))


def test_uniform__keeps_every_patch_equally_often() -> None:
    kept = draw_kept_patches(4000, (3, 5), 0.6, "uniform", generator=seeded())
    counts = kept.flatten().bincount(minlength=15) / 4000
    torch.testing.assert_close(counts, torch.full((15,), 0.4), rtol=0, atol=0.03)


def test_focal__keeps_patches_that_are_close_together() -> None:
    focal, uniform, block_views = (
        spread(draw_kept_patches(300, (14, 14), 0.8, strategy, 1.0, generator=seeded()), 14).mean()
        for strategy in ("focal", "uniform", "block")
    )
    assert block_views < focal < 0.9 * uniform


def test_focal_probability__is_the_share_of_focal_views() -> None:
    def all_views(probability: float) -> Tensor:
        return draw_kept_patches(2000, (14, 14), 0.8, "focal", probability, generator=seeded())

    uniform = draw_kept_patches(2000, (14, 14), 0.8, "uniform", generator=seeded())
    assert torch.equal(all_views(0.0), uniform)
    changed = (all_views(0.25) != uniform).any(dim=1).double().mean()
    assert abs(changed - 0.25) < 0.03
    assert (all_views(1.0) != uniform).any(dim=1).all()


def test_focal_bump__is_a_gaussian_around_a_cell() -> None:
    draws = torch.tensor([[0.5, 0.99, 0.0], [0.0, 0.0, 1.0]])
    bump = focal_bump(draws, (4, 6)).unflatten(1, (4, 6))
    for view, (row, column, sigma) in enumerate([(2, 5, 0.6), (0, 0, 3.0)]):
        for y in range(4):
            for x in range(6):
                expected = math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
                assert math.isclose(float(bump[view, y, x]), expected, rel_tol=1e-5, abs_tol=1e-12)


@given(grid=GRIDS, ratio=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
def test_block__is_a_full_square_cut_to_the_grid(grid: tuple[int, int], ratio: float, seed: int) -> None:
    height, width = grid
    kept = draw_kept_patches(1, grid, ratio, "block", generator=seeded(seed))
    side = math.isqrt(kept.shape[1])
    tall, wide = min(side, height), min(side, width)
    is_kept = torch.zeros(height * width, dtype=torch.bool)
    is_kept[kept[0]] = True
    windows = is_kept.view(grid).unfold(0, tall, 1).unfold(1, wide, 1)  # (rows, columns, tall, wide)
    assert windows.all(dim=(2, 3)).any()


def test_block__gets_everywhere() -> None:
    draws = torch.rand(500, 2, generator=seeded())
    places = {int(view.nonzero()[0]) for view in is_in_block(draws, (3, 4), 2)}
    assert places == {row * 4 + column for row in range(2) for column in range(3)}


def test_patch_positions__are_in_the_order_of_the_patches() -> None:
    rows, columns = patch_positions((2, 3), torch.device("cpu"))
    assert rows.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert columns.tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, (4, 4), 0.5), r"num_views .* got -1, \(4, 4\) and 0\.5"),
        ((1, (0, 4), 0.5), r"grid_size .* got 1, \(0, 4\) and 0\.5"),
        ((1, (4, 4), 1.0), r"mask_ratio .* and 1\.0"),
        ((1, (4, 4), float("nan")), r"mask_ratio .* and nan"),
        ((1, (4, 4), 0.5, "random"), r"strategy .* got 'random'"),
    ],
)
def test_parameters_out_of_range__are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_kept_patches(*arguments)


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
    ({"pixel_values": [1.0]}, TypeError, "pixel_values"),
    ({"pixel_values": torch.rand(2, 3, 30, 32)}, ValueError, "pixel_values .* 30"),
    ({"pixel_values": 255 * torch.rand(2, 3, 32, 32)}, ValueError, "pixel_values"),
    ({"global_views": None}, TypeError, "global_views .* NoneType"),
    ({"global_views": torch.zeros(2, 3, 3, 32, 32, dtype=torch.int64)}, TypeError, r"global_views .* torch\.int64"),
    ({"global_views": torch.rand(2, 3, 32, 32)}, ValueError, r"global_views .*\(B, V, 3, H, W\).* got \(2, 3, 32"),
    ({"global_views": torch.rand(3, 3, 3, 32, 32)}, ValueError, "the batch size 2"),
    ({"global_views": torch.rand(2, 0, 3, 32, 32)}, ValueError, "V >= 1"),
    ({"global_views": torch.rand(2, 3, 1, 32, 32)}, ValueError, "global_views: .* 3 channels"),
    ({"global_views": torch.rand(2, 3, 3, 16, 32)}, ValueError, r"global_views .*\(2, 3, 3, 16, 32\)"),
    ({"global_views": 255 * torch.rand(2, 3, 3, 32, 32)}, ValueError, "global_views"),
    ({"local_views": torch.rand(2, 2, 3, 20, 16)}, ValueError, "local_views: .* 20"),
    ({"local_views": torch.full((2, 2, 3, 16, 16), torch.nan)}, ValueError, "local_views.*NaN"),
    ({"kept_patches": torch.zeros(6, 4)}, TypeError, r"kept_patches .* torch\.float32"),
    ({"kept_patches": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"\(6, 1 to 16\).* got \(2, 4\)"),
    ({"kept_patches": torch.zeros(6, 17, dtype=torch.int64)}, ValueError, r"\(6, 1 to 16\).* got \(6, 17\)"),
    ({"kept_patches": torch.zeros(6, 0, dtype=torch.int64)}, ValueError, r"got \(6, 0\)"),
    ({"kept_patches": torch.full((6, 1), 16)}, ValueError, r"0\.\.15, got 16\.\.16"),
    ({"kept_patches": torch.full((6, 1), -1)}, ValueError, r"0\.\.15, got -1\.\.-1"),
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
    with pytest.raises(ValueError, match="global_views has 1 view"):
        check(views, one, **options)


def test_what_is_switched_off__is_not_looked_at(views: Views) -> None:
    check(views, {"local_views": torch.rand(7)}, use_local_views=False)
    check(views, {"kept_patches": torch.rand(7)}, mask_ratio=None)


def test_one_token__needs_koleo_switched_off(views: Views) -> None:
    with pytest.raises(ValueError, match="num_sparse_tokens is 1: set koleo_weight=0"):
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
        torch.testing.assert_close(found.cls_token, expected.cls_token, rtol=0, atol=5e-6)
        torch.testing.assert_close(found.patches, expected.patch_features, rtol=0, atol=5e-6)
        torch.testing.assert_close(found.tokens, expected.last_hidden_state, rtol=0, atol=5e-6)

    def test_all_patches_kept__is_the_whole_view(self, wide_model: StellarModel, images: Tensor) -> None:
        order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
        with torch.no_grad():
            whole = encode_views(wide_model.encoder, images.double())
            found = encode_views(wide_model.encoder, images.double(), order)
        torch.testing.assert_close(found.cls_token, whole.cls_token, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.tokens, whole.tokens, rtol=1e-9, atol=1e-11)
        expected = torch.stack([patches[kept] for patches, kept in zip(whole.patches, order, strict=True)])
        torch.testing.assert_close(found.patches, expected, rtol=1e-9, atol=1e-11)

    def test_mask_tokens__stand_for_hidden_patches(self, wide_model: StellarModel, images: Tensor) -> None:
        token = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        kept = torch.tensor([[0, 5, 15], [3, 2, 1]])
        everything = torch.arange(16).repeat(2, 1)
        with torch.no_grad():
            found, hidden = encode_with_mask_tokens(wide_model.encoder, images.double(), kept, token)
            whole, none_hidden = encode_with_mask_tokens(wide_model.encoder, images.double(), everything, token)
            plain = encode_views(wide_model.encoder, images.double())
            sequence = wide_model.encoder.embed(normalize_pixels(images.double(), torch.float64))
            at_its_place = token + wide_model.encoder.pos_embed[:, 1:]  # the stored grid is the images'
            for view, cells in enumerate(kept.tolist()):
                for cell in set(range(16)) - set(cells):
                    sequence[view, 1 + cell] = at_its_place[0, cell]
            _, expected, _ = wide_model.encoder.split(wide_model.encoder.run_blocks(sequence))
        torch.testing.assert_close(found.patches, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(whole.tokens, plain.tokens, rtol=1e-9, atol=1e-11)
        assert not none_hidden.any()
        assert [torch.nonzero(~row).flatten().tolist() for row in hidden] == [sorted(row) for row in kept.tolist()]

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
