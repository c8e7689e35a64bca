"""`forward_intermediates` with timm's signature: patch features of chosen encoder blocks."""

# No `from __future__ import annotations` here: transformers reads annotations at run time.
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from .encoder_stellar import StellarEncoder, format_intermediates, normalize_pixels, take_indices
from .input_checks import check_pixel_values
from .modeling_stellar_base import StellarPreTrainedModel

Indices: TypeAlias = int | list[int] | tuple[int, ...] | None
Maps: TypeAlias = list[Tensor]
MapsWithPrefix: TypeAlias = list[tuple[Tensor, Tensor]]


class StellarIntermediatesModel(StellarPreTrainedModel):
    """A model with an encoder whose intermediate features can be read."""

    encoder: StellarEncoder

    def _normalize(self, pixel_values: Tensor) -> Tensor:
        check_pixel_values(pixel_values, self.config.patch_size, self.config.num_channels)
        return normalize_pixels(pixel_values, self.encoder.pos_embed.dtype)

    def forward_features(self, pixel_values: Tensor) -> Tensor:
        """Returns the sequence after the final norm, as timm's method of this name does.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`.

        Returns:
            Tokens `(B, 1 + n + r, d)` in the order cls, patches, sparse tokens.

        Raises:
            ValueError: if shape or values are wrong.
        """
        return torch.cat(self.encoder(self._normalize(pixel_values)), dim=1)

    @overload
    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        return_prefix_tokens: Literal[False] = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        *,
        intermediates_only: Literal[True],
    ) -> Maps: ...

    @overload
    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        *,
        return_prefix_tokens: Literal[True],
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[True],
    ) -> MapsWithPrefix: ...

    @overload
    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        return_prefix_tokens: Literal[False] = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[False] = False,
    ) -> tuple[Tensor, Maps]: ...

    @overload
    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        *,
        return_prefix_tokens: Literal[True],
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: Literal[False] = False,
    ) -> tuple[Tensor, MapsWithPrefix]: ...

    @overload  # for flags that are known at run time alone
    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any: ...

    def forward_intermediates(
        self,
        pixel_values: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns patch features of chosen encoder blocks, with timm's signature.

        Args:
            pixel_values: RGB in [0, 1], `(B, 3, H, W)`.
            indices: Blocks to return: an integer `n` means the last `n`, a list means these blocks, None means all.
            return_prefix_tokens: Whether to pair each map with its cls token, `(B, 1, d)`.
            norm: Whether to apply the final norm to each map.
            stop_early: Whether to skip the blocks after the last chosen one; needs `intermediates_only`.
            output_fmt: Format of a map: "NCHW" is `(B, d, h, w)`, "NLC" is `(B, n, d)`.
            intermediates_only: Whether to return the list alone.

        Returns:
            The list of maps. Without `intermediates_only` a pair: the sequence after the final norm,
            `(B, 1 + n + r, d)` in the order cls, patches, sparse tokens, and the list.

        Raises:
            TypeError: if `indices` are not integers.
            ValueError: if a block does not exist, or options do not fit each other.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        if stop_early and not intermediates_only:
            raise ValueError("stop_early=True needs intermediates_only=True, because the final blocks do not run")
        wanted = take_indices(len(self.encoder.blocks), indices)
        normalized = self._normalize(pixel_values)
        grid = (pixel_values.shape[-2] // self.config.patch_size, pixel_values.shape[-1] // self.config.patch_size)
        tokens, collected = self.encoder(normalized, wanted, norm=norm, stop_early=stop_early)
        intermediates = format_intermediates(
            [self.encoder.split(item) for item in collected], grid, output_fmt, return_prefix_tokens
        )
        return intermediates if intermediates_only else (tokens, intermediates)
