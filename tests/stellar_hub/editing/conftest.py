"""Random encodings: softmax maps of different sharpness, of any small batch, grid and number of tokens."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.modeling import StellarEncoding

WIDTH = 6
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of a sum of a few rounded weights, one half unit in the last place each.
ROW_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def make_encoding(
    seed: int = 0,
    batch: int = 2,
    grid: tuple[int, int] = (4, 5),
    num_tokens: int = 4,
    sharpness: float = 3.0,
    dtype: torch.dtype = torch.float64,
) -> StellarEncoding:
    generator = torch.Generator().manual_seed(seed)
    semantics = torch.randn(batch, num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    logits = torch.randn(batch, grid[0] * grid[1], num_tokens, generator=generator, dtype=torch.float64)
    return StellarEncoding(semantics.to(dtype), (sharpness * logits).softmax(dim=-1).to(dtype), grid)


def compact_encoding(grid: tuple[int, int] = (8, 9), top: int = 2, left: int = 3) -> StellarEncoding:
    """One image whose token 0 is in 3 x 2 patches alone, away from the edges; two others share all patches."""
    generator = torch.Generator().manual_seed(5)
    map_ = torch.zeros(grid, dtype=torch.float64)
    map_[top : top + 3, left : left + 2] = 0.2 + 0.6 * torch.rand(3, 2, generator=generator, dtype=torch.float64)
    rest = 1 - map_.flatten()
    localization = torch.stack([map_.flatten(), 0.3 * rest, 0.7 * rest], dim=-1)[None]
    return StellarEncoding(torch.randn(1, 3, WIDTH, generator=generator, dtype=torch.float64), localization, grid)


@st.composite
def encodings(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float64,), **fixed: Any) -> StellarEncoding:
    options = {
        "seed": draw(st.integers(0, 2**31 - 1)),
        "batch": draw(st.integers(1, 3)),
        "grid": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "num_tokens": draw(st.integers(2, 5)),
        "sharpness": draw(st.sampled_from([0.0, 1.0, 5.0, 200.0])),  # up to rows of one 1 and zeros
        "dtype": draw(st.sampled_from(dtypes)),
    }
    return make_encoding(**(options | fixed))


def maps_of(encoding: StellarEncoding) -> Tensor:
    """`L` as maps, `(B, r, h, w)`."""
    assert encoding.grid_size is not None
    return encoding.localization.transpose(1, 2).unflatten(2, encoding.grid_size)
