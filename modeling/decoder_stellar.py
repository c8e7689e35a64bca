"""The decoder: from the low-rank map `Z = L S` to codes of the tokenizer or to pixels.

Its position code is that of Tancik et al. 2020 (arXiv 2006.10739), random Fourier features of the centres of a grid's
cells, with the frequencies stored in the checkpoint.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from timm.models import checkpoint
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from .configuration_stellar import StellarConfig
from .encoder_stellar import mlp_ratio


def fourier_position_code(frequencies: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Returns sine and cosine, interleaved, of the random projections of each cell's centre.

    Cell `(i, j)` of an `h x w` grid has its centre at `x = (j + .5) / w`, `y = (i + .5) / h`. Its phases are
    `2 pi [2x - 1, 2y - 1] G`.

    Args:
        frequencies: `G`, `(2, width / 2)`, at least float32, because the phases reach many turns.
        grid_size: Rows and columns `(h, w)` of the grid.

    Returns:
        The code, `(h * w, width)` in [-1, 1], in raster order.
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
    """The frequencies `G` of the position code, which are drawn once per training run and saved in the checkpoint.

    Args:
        width: Numbers per position; even.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.empty(2, width // 2, dtype=torch.float32))

    def forward(self, grid_size: tuple[int, int]) -> Tensor:
        """Returns the code of each cell of a grid, `(h * w, width)`, float32 or wider."""
        frequencies = self.frequencies.to(torch.promote_types(self.frequencies.dtype, torch.float32))
        return fourier_position_code(frequencies, grid_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `model.half()` and `model.to(bfloat16)` would coarsen G, and with it every phase. G follows the model's device
        # but keeps at least float32.
        before = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype.itemsize < torch.float32.itemsize:
            self.frequencies = before.to(self.frequencies.device, torch.float32)
        return self


class StellarDecoder(nn.Module):
    """A projection, the fixed position code, plain ViT blocks, and a head for codes ("vq") or RGB patches ("pixel").

    Args:
        config: The model's configuration.
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
            # With overlap, a patch of twice the side is centred on its cell; the sum of neighbours hides the borders.
            margin = config.patch_size // 2 if config.pixel_head_overlap else 0
            self.head = nn.ConvTranspose2d(
                width,
                config.num_channels,
                kernel_size=config.patch_size + 2 * margin,
                stride=config.patch_size,
                padding=margin,
            )

    def forward(self, low_rank: Tensor, grid_size: tuple[int, int], predict: bool = False) -> Tensor:
        """Runs the decoder's blocks over the dense map.

        Args:
            low_rank: `Z`, `(B, n, d)`.
            grid_size: Rows and columns `(h, w)` of the patches, `h w = n`.
            predict: Whether to apply the head as well.

        Returns:
            Hidden states after the final norm, `(B, n, decoder_hidden_size)`, or what `predict` returns.
        """
        hidden_states = self.proj(low_rank)
        hidden_states = hidden_states + self.position_code(grid_size).to(hidden_states.dtype)
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                hidden_states = checkpoint(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        hidden_states = self.norm(hidden_states)
        return self.predict(hidden_states, grid_size) if predict else hidden_states

    def predict(self, hidden_states: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Applies the head to hidden states `(B, n, decoder_hidden_size)`.

        Returns:
            Logits of the codes, `(B, n, codebook_size)`, or RGB before the clamp to [0, 1], `(B, 3, h p, w p)`.
        """
        if isinstance(self.head, nn.Linear):
            return self.head(hidden_states)
        grid = hidden_states.transpose(1, 2).unflatten(2, grid_size)  # (B, width, h, w)
        return self.head(grid)
