"""The encoder: timm's plain ViT with learned sparse tokens after the patches, and its intermediate features."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import checkpoint
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .configuration_stellar import StellarConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize_pixels(pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalizes RGB with ImageNet's mean and standard deviation, in float32, and casts the result.

    Args:
        pixel_values: Images, `(B, 3, H, W)`, floats in [0, 1] or uint8 in 0..255.
        dtype: Type of the result.

    Returns:
        Normalized images, `(B, 3, H, W)`.
    """
    if pixel_values.dtype == torch.uint8:
        pixel_values = pixel_values.float() / 255
    channels = pixel_values.to(torch.promote_types(pixel_values.dtype, torch.float32)).unbind(1)
    # Channel by channel with Python numbers: no constant tensor that would have to follow device and dtype.
    normalized = [(c - mean) / std for c, mean, std in zip(channels, IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return torch.stack(normalized, dim=1).to(dtype)


def mlp_ratio(intermediate_size: int | None, hidden_size: int) -> float:
    """Returns a ratio from which timm, which truncates `hidden_size * ratio`, computes exactly `intermediate_size`."""
    assert intermediate_size is not None, "StellarConfig fills it in"
    return (intermediate_size + 0.5) / hidden_size


class StellarEncoder(VisionTransformer):
    """A plain pre-norm ViT over the sequence `[cls, n patches, r sparse tokens]`.

    Position embeddings are added to cls and patches. Sparse tokens have none, which makes them a set.

    Args:
        config: The model's configuration.
    """

    # timm leaves these out in variants without positions or cls; this one has both.
    pos_embed: nn.Parameter
    cls_token: nn.Parameter
    # transformers' name for timm's `grad_checkpointing`; the model sets both.
    gradient_checkpointing = False

    def __init__(self, config: StellarConfig):
        norm_layer: Any = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=config.num_channels,
            num_classes=0,
            global_pool="",
            embed_dim=config.hidden_size,
            depth=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=mlp_ratio(config.intermediate_size, config.hidden_size),
            norm_layer=norm_layer,
            init_values=config.layer_scale_init_value,
            dynamic_img_size=True,
            weight_init="skip",
        )
        self.sparse_tokens = nn.Parameter(torch.empty(config.num_sparse_tokens, config.hidden_size))

    def positions(self, grid_size: tuple[int, int]) -> Tensor:
        """Returns the position embeddings of cls and of the patches of a grid `(h, w)`, `(1, 1 + h w, d)`.

        The patches' embeddings are resampled from the stored grid: bicubic, not antialiased, in float32.
        """
        return resample_abs_pos_embed(
            self.pos_embed,
            new_size=list(grid_size),
            old_size=list(self.patch_embed.grid_size),
            num_prefix_tokens=1,
            antialias=False,
        )

    def embed(self, pixel_values: Tensor, positions: Tensor | None = None) -> Tensor:
        """Builds the input of the first block.

        Args:
            pixel_values: Normalized images, `(B, 3, H, W)`.
            positions: Position embeddings of the images' grid, where they are known already, as in an exported graph
                of fixed size; None computes them.

        Returns:
            The sequence `[cls, patches, sparse tokens]`, `(B, 1 + n + r, d)`.
        """
        patches = self.patch_embed.proj(pixel_values)  # (B, d, h, w)
        batch_size, _, height, width = patches.shape
        if positions is None:
            positions = self.positions((height, width))
        cls_token = self.cls_token.expand(batch_size, -1, -1)
        tokens = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + positions
        return torch.cat([tokens, self.sparse_tokens.expand(batch_size, -1, -1)], dim=1)

    def run_blocks(self, tokens: Tensor, hidden_states: list[Tensor] | None = None) -> Tensor:
        """Runs all blocks and the final norm over a sequence `(B, tokens, d)`, with checkpointing if it is on.

        The inputs of the blocks and the output of the last one are appended to `hidden_states`.
        """
        for block in self.blocks:
            if hidden_states is not None:
                hidden_states.append(tokens)
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens)
            else:
                tokens = block(tokens)
        if hidden_states is not None:
            hidden_states.append(tokens)
        return self.norm(tokens)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits a sequence `(B, 1 + n + r, d)` into cls `(B, 1, d)`, patches `(B, n, d)` and sparse `(B, r, d)`."""
        num_sparse_tokens = self.sparse_tokens.shape[0]
        num_patches = tokens.shape[1] - 1 - num_sparse_tokens
        cls_token, patches, sparse = tokens.split([1, num_patches, num_sparse_tokens], dim=1)
        return cls_token, patches, sparse

    def forward(
        self,
        pixel_values: Tensor,
        wanted: Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        hidden_states: bool = False,
    ) -> tuple[Any, ...]:
        """Encodes normalized images; with `wanted` it returns the sequences after some blocks.

        All are here, because hooks, such as those that fetch offloaded weights, run around `forward` alone.

        Args:
            pixel_values: Normalized images, `(B, 3, H, W)`.
            wanted: Numbers of the blocks whose outputs are kept, ascending; None for the usual output.
            norm: Whether to apply the final norm to each output that is kept.
            stop_early: Whether to stop after the last wanted block.
            hidden_states: Whether to return the input of each block and the output of the last one as well.

        Returns:
            Cls `(B, 1, d)`, patches `(B, n, d)` and sparse tokens `(B, r, d)`. With `hidden_states` also a tuple of
            sequences `(B, 1 + n + r, d)`, one more than there are blocks. With `wanted` a pair: the sequence after the
            final norm, or None if not all blocks ran, and the list of kept sequences, each `(B, 1 + n + r, d)`.
        """
        tokens = self.embed(pixel_values)
        if hidden_states:
            states: list[Tensor] = []
            return *self.split(self.run_blocks(tokens, states)), tuple(states)
        if wanted is None:
            return self.split(self.run_blocks(tokens))
        collected: list[Tensor] = []
        num_blocks = wanted[-1] + 1 if stop_early and wanted else len(self.blocks)
        for index, block in enumerate(islice(self.blocks, num_blocks)):
            tokens = block(tokens)
            if index in wanted:
                collected.append(self.norm(tokens) if norm else tokens)
        return None if stop_early else self.norm(tokens), collected


def take_indices(num_blocks: int, indices: int | list[int] | tuple[int, ...] | None) -> list[int]:
    """Returns block numbers, ascending, for the `indices` of timm's `forward_intermediates`.

    Args:
        num_blocks: Number of the encoder's blocks.
        indices: None for all blocks, an integer `n` for the last `n`, or a list of block numbers, which may count from
            the end.

    Raises:
        TypeError: if `indices` is something else.
        ValueError: if a block does not exist.
    """
    if indices is None:
        return list(range(num_blocks))
    numbers = indices if isinstance(indices, list | tuple) else [indices]
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in numbers):
        raise TypeError(f"indices must be None, a number of blocks, or a list of block numbers, got {indices!r}")
    if isinstance(indices, int):
        if not 1 <= indices <= num_blocks:
            raise ValueError(f"indices={indices} must be between 1 and {num_blocks}, the number of blocks")
        return list(range(num_blocks - indices, num_blocks))
    resolved = [index + num_blocks if index < 0 else index for index in indices]
    for given, index in zip(indices, resolved, strict=True):
        if not 0 <= index < num_blocks:
            raise ValueError(f"indices has block {given}, but the model has blocks 0 to {num_blocks - 1}")
    return sorted(set(resolved))


def format_intermediates(
    collected: list[tuple[Tensor, Tensor, Tensor]],
    grid_size: tuple[int, int],
    output_fmt: str,
    return_prefix_tokens: bool,
) -> list[Any]:
    """Returns the patches of each sequence as timm does: maps `(B, d, h, w)` for "NCHW", else `(B, n, d)`.

    Args:
        collected: Sequences, each split into cls, patches and sparse tokens.
        grid_size: Rows and columns `(h, w)` of the patches.
        output_fmt: "NCHW" or "NLC".
        return_prefix_tokens: Whether to pair the patches with cls, `(B, 1, d)`.
    """
    formatted: list[Any] = []
    for cls_token, patches, _ in collected:
        features = patches.transpose(1, 2).unflatten(2, grid_size) if output_fmt == "NCHW" else patches
        formatted.append((features, cls_token) if return_prefix_tokens else features)
    return formatted
