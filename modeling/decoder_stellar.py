"""The decoder: from the low-rank map `Z = L S` to codes of the tokenizer or to pixels."""

from functools import partial
from typing import Any

import torch
from timm.models import checkpoint
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .configuration_stellar import StellarConfig
from .encoder_stellar import mlp_ratio
from .position_code import FourierPositionCode


class StellarDecoder(nn.Module):
    """Projection, fixed position code, plain ViT blocks, and a head for codes ("vq") or RGB patches ("pixel").

    Args:
        config: A `StellarConfig`.
    """

    gradient_checkpointing = False  # as in the encoder

    def __init__(self, config: StellarConfig):
        super().__init__()
        width = config.decoder_hidden_size
        norm_layer: Any = partial(nn.LayerNorm, eps=config.layer_norm_eps)
        self.grad_checkpointing = False
        self.proj = nn.Linear(config.hidden_size, width)
        self.position_code = FourierPositionCode(width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.decoder_num_attention_heads,
                mlp_ratio=mlp_ratio(config.decoder_intermediate_size, width),
                qkv_bias=True,
                norm_layer=norm_layer,
            )
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = norm_layer(width)
        self.head: nn.Module
        if config.reconstruction_head == "vq":
            self.head = nn.Linear(width, config.codebook_size)
        else:
            self.head = nn.ConvTranspose2d(
                width, config.num_channels, kernel_size=config.patch_size, stride=config.patch_size
            )

    def forward(self, low_rank: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Dense map `Z` `(B, n, d)` on a grid `(h, w)`, `n = h w`, to hidden states `(B, n, decoder_hidden_size)`."""
        hidden_states = self.proj(low_rank)
        hidden_states = hidden_states + self.position_code(grid_size).to(hidden_states.dtype)
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                hidden_states = checkpoint(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return self.norm(hidden_states)

    def predict(self, hidden_states: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Hidden states to code logits `(B, n, codebook_size)`, or to RGB `(B, 3, h p, w p)`, not clamped."""
        if isinstance(self.head, nn.Linear):
            return self.head(hidden_states)
        grid = hidden_states.transpose(1, 2).unflatten(2, grid_size)  # (B, width, h, w)
        return self.head(grid)
