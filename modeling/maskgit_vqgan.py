"""The MaskGIT-VQGAN tokenizer: a fully convolutional autoencoder with a codebook, always frozen.

The architecture is that of Chang et al. 2022 (arXiv 2202.04200), in the layout of the PyTorch port that STELLAR was
trained with. All its convolutions have stride 1, for which TensorFlow's SAME padding is `k // 2` on each side. The
weights expect one peculiarity: if a residual block changes the width, its shortcut is applied to the block's *output*.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_stellar import StellarConfig

NORM_GROUPS = 32
NORM_EPS = 1e-6


def nearest_codes(latents: Tensor, codebook: Tensor) -> Tensor:
    """Returns the index of the nearest code of each latent, by squared distance.

    Args:
        latents: Latents, `(B, embed_dim, h, w)`.
        codebook: Codes, `(codebook_size, embed_dim)`.

    Returns:
        Indices, `(B, h, w)`, int64.
    """
    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B h w, embed_dim)
    # The squared norm of a latent is the same for all codes and cannot change the choice.
    distance = codebook.square().sum(dim=1) - 2 * flat @ codebook.t()
    return distance.argmin(dim=1).view(latents.shape[0], *latents.shape[-2:])


def normalization(channels: int) -> nn.GroupNorm:
    """Builds the tokenizer's GroupNorm."""
    return nn.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and a 3x3 convolution, twice, with a 1x1 `nin_shortcut` if the width changes."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = normalization(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = normalization(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.nin_shortcut = (
            nn.Conv2d(out_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps `(B, in_channels, h, w)` to `(B, out_channels, h, w)`."""
        output = self.conv1(F.silu(self.norm1(hidden_states)))
        output = self.conv2(F.silu(self.norm2(output)))
        if self.nin_shortcut is None:
            return output + hidden_states
        return output + self.nin_shortcut(output)


class Level(nn.Module):
    """The residual blocks of one resolution and, in the decoder, the convolution after upsampling."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, upsample: bool = False):
        super().__init__()
        widths = [in_channels] + [out_channels] * num_blocks
        self.block = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(widths))
        self.upsample_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1) if upsample else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps `(B, in_channels, h, w)` to `(B, out_channels, h, w)`, or to twice that size if it upsamples."""
        for block in self.block:
            hidden_states = block(hidden_states)
        if self.upsample_conv is None:
            return hidden_states
        return self.upsample_conv(F.interpolate(hidden_states, scale_factor=2, mode="nearest"))


class MaskGitVQGANEncoder(nn.Module):
    """The half from pixels to latents, which only pretraining needs, for its targets.

    Args:
        config: The model's configuration, of which the `tokenizer_*` fields count.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        base, num_blocks = config.tokenizer_hidden_channels, config.tokenizer_num_res_blocks
        widths = [base * multiple for multiple in config.tokenizer_channel_mult]
        self.conv_in = nn.Conv2d(config.num_channels, base, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(before, after, num_blocks) for before, after in zip([base, *widths[:-1]], widths, strict=True)
        )
        self.mid = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(num_blocks))
        self.norm_out = normalization(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.tokenizer_embed_dim, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encodes images `(B, 3, H, W)` in [0, 1] to `(B, embed_dim, H / f, W / f)`, `f = 2 ** (levels - 1)`."""
        hidden_states = self.conv_in(pixel_values)
        for index, level in enumerate(self.down):
            if index:
                hidden_states = F.avg_pool2d(hidden_states, kernel_size=2)
            hidden_states = level(hidden_states)
        for block in self.mid:
            hidden_states = block(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))


class MaskGitVQGANDecoder(nn.Module):
    """The half from codes to pixels, with the codebook, which `StellarModel.decode` needs.

    Args:
        config: The model's configuration, of which the `tokenizer_*` fields count.
    """

    # The codes of a cell lie side by side in memory, so cuDNN takes all layers to have channels last, unless this is
    # True. `optimize_for_inference` measures which is faster.
    channels_first = False

    def __init__(self, config: StellarConfig):
        super().__init__()
        base, num_blocks = config.tokenizer_hidden_channels, config.tokenizer_num_res_blocks
        widths = [base * multiple for multiple in config.tokenizer_channel_mult]
        self.codebook = nn.Embedding(config.codebook_size, config.tokenizer_embed_dim)
        self.conv_in = nn.Conv2d(config.tokenizer_embed_dim, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(num_blocks))
        # up[i] works at resolution level i. The last level is the coarsest, and `forward` begins with it.
        self.up = nn.ModuleList(
            Level(before, after, num_blocks, upsample=index > 0)
            for index, (before, after) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = normalization(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.num_channels, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Decodes codes `(B, h, w)`, int64, to images `(B, 3, h f, w f)`, clamped to [0, 1]."""
        latents = self.codebook(codes).permute(0, 3, 1, 2)  # (B, embed_dim, h, w)
        hidden_states = self.conv_in(latents.contiguous() if self.channels_first else latents)
        for block in self.mid:
            hidden_states = block(hidden_states)
        for level in reversed(self.up):
            hidden_states = level(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states))).clamp(0, 1)
