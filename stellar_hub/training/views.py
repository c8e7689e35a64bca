"""Encoding of whole and of masked views, and matching of their tokens to target tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.modeling.encoder_stellar import StellarEncoder, normalize_pixels


class EncodedViews(NamedTuple):
    """The encoder's tokens of `N` views after its final norm.

    Attributes:
        cls_token: `(N, d)`.
        patches: `(N, n, d)`, those that were encoded.
        tokens: `(N, r, d)`.
    """

    cls_token: Tensor
    patches: Tensor
    tokens: Tensor


def encode_views(encoder: StellarEncoder, pixel_values: Tensor, kept_patches: Tensor | None = None) -> EncodedViews:
    """Encode views, whole or with the patches that are kept alone.

    Args:
        encoder: The encoder.
        pixel_values: `(N, 3, H, W)`, floats in [0, 1] or uint8.
        kept_patches: Indices of the patches to keep, `(N, kept)`, or None for all.

    Returns:
        The tokens; the patches are the kept ones in their given order.
    """
    sequence = encoder.embed(normalize_pixels(pixel_values, encoder.pos_embed.dtype))
    if kept_patches is not None:
        cls_token, patches, sparse = encoder.split(sequence)
        index = kept_patches[..., None].expand(-1, -1, patches.shape[-1])
        sequence = torch.cat([cls_token, patches.gather(1, index), sparse], dim=1)
    cls_token, patches, tokens = encoder.split(encoder.run_blocks(sequence))
    return EncodedViews(cls_token[:, 0], patches, tokens)


def matched_rows(predicted: Tensor, target: Tensor, epsilon: float, num_iters: int, use_matching: bool) -> Tensor:
    """For each predicted token the row of its target among the flattened target tokens.

    Args:
        predicted: Tokens of `B V` views, `(B V, r, d)`, view index fastest.
        target: Tokens of the `B` images they are views of, `(B, r, d)`.
        epsilon: Entropy's weight in the matching.
        num_iters: Its iterations.
        use_matching: False pairs tokens by their order.

    Returns:
        Rows of `target.flatten(0, 1)`, `(B V r,)` int64.
    """
    num_images, num_tokens = target.shape[:2]
    views = predicted.shape[0] // num_images
    first = torch.arange(num_images, device=target.device).repeat_interleave(views)[:, None] * num_tokens  # (B V, 1)
    if use_matching:
        index, _ = match_tokens(predicted, target.repeat_interleave(views, dim=0), epsilon, num_iters)
    else:
        index = torch.arange(num_tokens, device=target.device).expand(num_images * views, -1)
    return (first + index).flatten()
