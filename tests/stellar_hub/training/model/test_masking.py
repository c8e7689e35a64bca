"""Which patches are kept."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.training.model.masking import block, cells, draw_kept_patches, focal_bump, num_kept_patches

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
    places = {int(view.nonzero()[0]) for view in block(draws, (3, 4), 2)}
    assert places == {row * 4 + column for row in range(2) for column in range(3)}


def test_cells__are_in_the_order_of_the_patches() -> None:
    rows, columns = cells((2, 3), torch.device("cpu"))
    assert rows.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert columns.tolist() == [[0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, (4, 4), 0.5), r"num_views >= 0, .* got -1, \(4, 4\), 0\.5"),
        ((1, (0, 4), 0.5), r"a grid of at least 1 x 1, .* got 1, \(0, 4\), 0\.5"),
        ((1, (4, 4), 1.0), r"mask_ratio within \[0, 1\); got 1, \(4, 4\), 1\.0"),
        ((1, (4, 4), -0.1), r"mask_ratio within \[0, 1\)"),
        ((1, (4, 4), float("nan")), r"mask_ratio within \[0, 1\)"),
        ((1, (4, 4), 0.5, "random"), r"strategy must be 'focal', 'uniform' or 'block', got 'random'"),
    ],
)
def test_parameters_out_of_range__are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_kept_patches(*arguments)
