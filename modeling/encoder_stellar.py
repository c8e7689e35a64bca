"""The encoder: timm's plain ViT with learned sparse tokens appended after the patches."""

from functools import partial
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
    """RGB in [0, 1] (or uint8) to ImageNet-normalized values, computed in float32, then cast.

    Args:
        pixel_values: `(B, 3, H, W)`, floats in [0, 1] or uint8 in 0..255.
        dtype: The dtype of the result.
    """
    if pixel_values.dtype == torch.uint8:
        pixel_values = pixel_values.float() / 255
    channels = pixel_values.to(torch.promote_types(pixel_values.dtype, torch.float32)).unbind(1)
    # Channel by channel with Python numbers: no constant tensor that would have to follow device and dtype.
    normalized = [(c - mean) / std for c, mean, std in zip(channels, IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return torch.stack(normalized, dim=1).to(dtype)


def mlp_ratio(intermediate_size: int | None, hidden_size: int) -> float:
    """The ratio from which timm computes exactly `intermediate_size` (it truncates `hidden_size * ratio`)."""
    assert intermediate_size is not None, "StellarConfig fills it in"
    return (intermediate_size + 0.5) / hidden_size


class StellarEncoder(VisionTransformer):
    """Plain pre-norm ViT over `[cls, n patches, r sparse tokens]`.

    Position embeddings are added to cls and patches; sparse tokens have none, which makes them a set.

    Args:
        config: A `StellarConfig`.
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
        """Position embeddings of cls and of the patches of a grid `(h, w)`, `(1, 1 + h w, d)`.

        Those of the patches are resampled from the stored grid: bicubic, not antialiased, in float32.
        """
        return resample_abs_pos_embed(
            self.pos_embed,
            new_size=list(grid_size),
            old_size=list(self.patch_embed.grid_size),
            num_prefix_tokens=1,
            antialias=False,
        )

    def embed(self, pixel_values: Tensor, positions: Tensor | None = None) -> Tensor:
        """Normalized pixels `(B, 3, H, W)` to the sequence `[cls, patches, sparse]`, `(B, 1 + n + r, d)`.

        `positions` are those of the pixels' grid where they are known already, as in an exported graph of fixed size.
        """
        patches = self.patch_embed.proj(pixel_values)  # (B, d, h, w)
        batch_size, _, height, width = patches.shape
        if positions is None:
            positions = self.positions((height, width))
        cls_token = self.cls_token.expand(batch_size, -1, -1)
        tokens = torch.cat([cls_token, patches.flatten(2).transpose(1, 2)], dim=1) + positions
        return torch.cat([tokens, self.sparse_tokens.expand(batch_size, -1, -1)], dim=1)

    def run_blocks(self, tokens: Tensor) -> Tensor:
        """All blocks and the final norm over a sequence `(B, tokens, d)`, with checkpointing if it is on."""
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens)
            else:
                tokens = block(tokens)
        return self.norm(tokens)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A sequence `(B, 1 + n + r, d)` to cls `(B, 1, d)`, patches `(B, n, d)` and sparse `(B, r, d)`."""
        num_sparse_tokens = self.sparse_tokens.shape[0]
        num_patches = tokens.shape[1] - 1 - num_sparse_tokens
        cls_token, patches, sparse = tokens.split([1, num_patches, num_sparse_tokens], dim=1)
        return cls_token, patches, sparse

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized pixels `(B, 3, H, W)` to cls `(B, 1, d)`, patches `(B, n, d)` and sparse `(B, r, d)`."""
        return self.split(self.run_blocks(self.embed(pixel_values)))
