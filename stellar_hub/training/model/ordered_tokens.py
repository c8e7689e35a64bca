"""Ordered tokens: training keeps the first few tokens of some images, so that these learn to hold the most.

This is nested dropout (Rippel et al. 2014, arXiv 1402.0915) over sparse tokens. It applies to the reconstruction and to
the losses of tokens against prototypes. KoLeo spreads all tokens: where they are far apart, those of a prefix are too.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from stellar_hub.modeling import StellarConfig


def draw_num_tokens(
    shape: tuple[int, ...],
    max_tokens: int,
    nested_dropout: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws how many tokens images keep: a power of two below `max_tokens` with `nested_dropout`, else all.

    Powers of two, because each token adds less than the one before it: uniform draws would rarely train short prefixes.

    Args:
        shape: Shape of the result.
        max_tokens: Number of tokens of an image, at least 2.
        nested_dropout: Share of the images that are cut, in [0, 1].
        generator: Source of the random numbers; None uses torch's global one.
        device: Device of the draws and of the result.

    Returns:
        Numbers from 1 to `max_tokens`, int64.
    """
    num_powers = (max_tokens - 1).bit_length()
    exponent = torch.randint(num_powers, shape, generator=generator, device=device)
    is_cut = torch.rand(shape, generator=generator, device=device) < nested_dropout
    return torch.where(is_cut, 2**exponent, max_tokens)


def num_tokens_sampler(config: StellarConfig) -> Callable[[torch.Generator], Tensor] | None:
    """Returns what draws the number of tokens of a sample, a scalar; None where tokens are not ordered."""
    if config.nested_dropout == 0:
        return None
    return partial(_draw_one, config.num_sparse_tokens, float(config.nested_dropout))  # workers get it pickled


def _draw_one(max_tokens: int, nested_dropout: float, generator: torch.Generator) -> Tensor:
    return draw_num_tokens((), max_tokens, nested_dropout, generator=generator)


def resolve_num_tokens(config: StellarConfig, num_tokens: Tensor | None, pixel_values: Tensor) -> Tensor | None:
    """Returns the number of tokens that each image keeps: None where tokens are not ordered, and drawn if not given.

    Raises:
        TypeError: if the dtype is not int64.
        ValueError: if the shape is not `(B,)` or, on the CPU, a number is out of range.
    """
    if config.nested_dropout == 0:
        return None
    size, max_tokens = pixel_values.shape[0], config.num_sparse_tokens
    if num_tokens is None:
        return draw_num_tokens((size,), max_tokens, config.nested_dropout, device=pixel_values.device)
    if num_tokens.dtype != torch.int64:
        raise TypeError(f"num_tokens must have dtype torch.int64, got {num_tokens.dtype}")
    if tuple(num_tokens.shape) != (size,):
        raise ValueError(f"num_tokens must have shape (B,) = ({size},), got {tuple(num_tokens.shape)}")
    if num_tokens.device.type == "cpu":
        low, high = (int(value) for value in num_tokens.aminmax())
        if low < 1 or high > max_tokens:
            raise ValueError(f"num_tokens must be from 1 to {max_tokens}, got {low} to {high}")
    return num_tokens


def prefix_mask(num_tokens: Tensor, max_tokens: int) -> Tensor:
    """Returns which tokens are kept, booleans `(B, r)`, for the number of each image, `(B,)`."""
    return torch.arange(max_tokens, device=num_tokens.device) < num_tokens[:, None]


def prefix_rows(num_tokens: Tensor, num_views: int, max_tokens: int) -> Tensor:
    """Returns rows of flattened tokens that repeat the kept ones of each view until there are `r` again.

    So shapes do not depend on the draw, each view counts the same, and so does each kept token of it where their number
    divides `r`, as powers of two divide 16.

    Args:
        num_tokens: Number of tokens that each image keeps, `(B,)`.
        num_views: Number of views, `B V`, view index fastest.
        max_tokens: Number `r` of tokens of a view.

    Returns:
        Rows of tokens `(B V r, d)`, int64 `(B V r,)`.
    """
    device = num_tokens.device
    counts = num_tokens.repeat_interleave(num_views // num_tokens.shape[0], output_size=num_views)
    column = torch.arange(max_tokens, device=device) % counts[:, None]  # (B V, r)
    return (torch.arange(num_views, device=device)[:, None] * max_tokens + column).flatten()
