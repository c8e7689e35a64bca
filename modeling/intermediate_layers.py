"""Intermediate features of the encoder, in the shapes that timm's `forward_intermediates` gives."""

from itertools import islice
from typing import Any

from torch import Tensor

from .encoder_stellar import StellarEncoder


def take_indices(num_blocks: int, indices: int | list[int] | tuple[int, ...] | None) -> list[int]:
    """Block numbers, ascending, from timm's notation: None all, an integer the last so many, a list these.

    Raises:
        ValueError: if a block does not exist.
    """
    if indices is None:
        return list(range(num_blocks))
    if isinstance(indices, int):
        if not 1 <= indices <= num_blocks:
            raise ValueError(f"the last {indices} blocks were asked for; the model has {num_blocks}")
        return list(range(num_blocks - indices, num_blocks))
    resolved = [index + num_blocks if index < 0 else index for index in indices]
    for given, index in zip(indices, resolved, strict=True):
        if not 0 <= index < num_blocks:
            raise ValueError(f"block {given} was asked for; the model has blocks 0 to {num_blocks - 1}")
    return sorted(set(resolved))


def collect_intermediates(
    encoder: StellarEncoder, pixel_values: Tensor, wanted: list[int], norm: bool, stop_early: bool
) -> tuple[Tensor, list[Tensor]]:
    """Run the blocks over normalized pixels; the last sequence reached, and those after the `wanted` blocks."""
    tokens = encoder.embed(pixel_values)
    collected: list[Tensor] = []
    last = wanted[-1] if stop_early and wanted else len(encoder.blocks) - 1
    for index, block in enumerate(islice(encoder.blocks, last + 1)):
        tokens = block(tokens)
        if index in wanted:
            collected.append(encoder.norm(tokens) if norm else tokens)
    return tokens, collected


def format_intermediates(
    collected: list[tuple[Tensor, Tensor, Tensor]],
    grid_size: tuple[int, int],
    output_fmt: str,
    return_prefix_tokens: bool,
) -> list[Any]:
    """Split sequences (cls, patches, sparse) to maps `(B, d, h, w)` or sequences `(B, n, d)`, with cls if asked."""
    formatted: list[Any] = []
    for cls_token, patches, _ in collected:
        features = patches.transpose(1, 2).unflatten(2, grid_size) if output_fmt == "NCHW" else patches
        formatted.append((features, cls_token) if return_prefix_tokens else features)
    return formatted
