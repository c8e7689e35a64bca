"""Which patches of a masked view are kept.

STELLAR (arXiv 2602.01905) keeps a few patches of each view, half of the time near a random centre ("focal").
"""

import math
from typing import Literal

import torch
from torch import Tensor

MaskStrategy = Literal["focal", "uniform", "block"]
FOCAL_SIGMA = (0.1, 0.5)


def num_kept_patches(num_patches: int, mask_ratio: float) -> int:
    """Patches of a view that are kept: `int(n (1 - ratio))`, but at least one."""
    return max(1, int(num_patches * (1 - mask_ratio)))


def draw_kept_patches(
    num_views: int,
    grid_size: tuple[int, int],
    mask_ratio: float,
    strategy: MaskStrategy = "focal",
    focal_probability: float = 0.5,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw the patches that are kept: those of lowest noise.

    Args:
        num_views: Views to draw for, each on its own.
        grid_size: Patches `(h, w)` of a view.
        mask_ratio: Share that is hidden, in [0, 1).
        strategy: "uniform": noise ~ U(0, 1). "focal": with `focal_probability` a Gaussian bump around a random cell,
            of width ~ U(.1, .5) of the grid's longer side, is taken off the noise. "block": one square of side
            `floor(sqrt(kept))` has noise 0.
        focal_probability: Share of views that are focal.
        generator: Source of the draws; None takes torch's global one.
        device: Where to draw, and where the result lies.

    Returns:
        Indices `(num_views, kept)`, int64, distinct within a view.

    Raises:
        ValueError: if a parameter is out of range.
    """
    height, width = grid_size
    if num_views < 0 or height < 1 or width < 1 or not 0 <= mask_ratio < 1:
        raise ValueError(
            f"needed: num_views >= 0, a grid of at least 1 x 1, mask_ratio within [0, 1); "
            f"got {num_views}, {grid_size}, {mask_ratio}"
        )
    if strategy not in ("focal", "uniform", "block"):
        raise ValueError(f"strategy must be 'focal', 'uniform' or 'block', got {strategy!r}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    kept = num_kept_patches(height * width, mask_ratio)
    noise = uniform(num_views, height * width)
    if strategy == "focal":
        is_focal = uniform(num_views, 1) < focal_probability
        noise = noise - is_focal * focal_bump(uniform(num_views, 3), grid_size)
    elif strategy == "block":
        noise = noise * ~block(uniform(num_views, 2), grid_size, math.isqrt(kept))
    return noise.argsort(dim=1)[:, :kept]


def focal_bump(draws: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """`exp(-dist^2 / (2 (sigma side)^2))` around a cell: `draws` `(N, 3)` in [0, 1) to `(N, h w)`."""
    height, width = grid_size
    row, column, width_draw = draws.split(1, dim=1)  # (N, 1) each
    low, high = FOCAL_SIGMA
    sigma = (low + (high - low) * width_draw) * max(height, width)
    rows, columns = cells(grid_size, draws.device)
    distance2 = (rows - (row * height).floor()) ** 2 + (columns - (column * width).floor()) ** 2
    return torch.exp(-distance2 / (2 * sigma**2))


def block(draws: Tensor, grid_size: tuple[int, int], side: int) -> Tensor:
    """Membership in a square of `side` cells at a random place, cut to the grid: `(N, 2)` to bool `(N, h w)`."""
    height, width = grid_size
    tall, wide = min(side, height), min(side, width)
    top = (draws[:, :1] * (height - tall + 1)).floor()
    left = (draws[:, 1:] * (width - wide + 1)).floor()
    rows, columns = cells(grid_size, draws.device)
    return (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)


def cells(grid_size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each cell, `(1, h w)` each, in the order of the patches."""
    height, width = grid_size
    index = torch.arange(height * width, device=device)[None]
    return index // width, index % width
