"""Fixed position code of the decoder: random Fourier features of the cell centres of a grid.

Specification: Tancik et al. 2020 (arXiv 2006.10739), with the frequencies stored in the checkpoint.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast


def fourier_position_code(frequencies: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Sine and cosine, interleaved, of each cell centre's random projections.

    Cell `(i, j)` of an `h x w` grid has its centre at `x = (j + .5) / w`, `y = (i + .5) / h`; its phases are
    `2 pi [2x - 1, 2y - 1] G`.

    Args:
        frequencies: `G`, `(2, width / 2)`, at least float32: phases reach many turns.
        grid_size: `(h, w)`.

    Returns:
        `(h * w, width)`, rows in raster order, values in [-1, 1].
    """
    height, width = grid_size
    device, dtype = frequencies.device, frequencies.dtype
    y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")
    centres = torch.stack([grid_x, grid_y], dim=-1).flatten(0, 1)  # (n, 2), x before y
    with maybe_autocast(device_type=frequencies.device.type, enabled=False):
        phases = 2 * math.pi * (centres @ frequencies)  # (n, width / 2)
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1)  # (n, width): sin, cos, sin, cos, ...


class FourierPositionCode(nn.Module):
    """Holds the frequencies `G`, drawn once per training run and part of the checkpoint.

    Args:
        width: Numbers per position; even.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.empty(2, width // 2, dtype=torch.float32))

    def forward(self, grid_size: tuple[int, int]) -> Tensor:
        """The code of each cell of a grid, `(h * w, width)`, float32 or wider."""
        frequencies = self.frequencies.to(torch.promote_types(self.frequencies.dtype, torch.float32))
        return fourier_position_code(frequencies, grid_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `model.half()` and `model.to(bfloat16)` would coarsen G, and with it every phase: it follows the model's
        # device but not to a dtype below float32.
        before = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype.itemsize < torch.float32.itemsize:
            self.frequencies = before.to(self.frequencies.device, torch.float32)
        return self
