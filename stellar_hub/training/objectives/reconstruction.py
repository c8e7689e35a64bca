"""What the decoder is to predict: codes of the tokenizer, or the pixels themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder, nearest_codes


def code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of logits `(B, n, codes)` against codes `(B, h, w)`, in at least float32."""
    working = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.flatten(0, 1).to(working), codes.flatten())


def pixel_loss(prediction: Tensor, pixel_values: Tensor) -> Tensor:
    """Mean squared error of `(B, 3, H, W)` against the image in [0, 1] (or uint8), in at least float32."""
    working = torch.promote_types(prediction.dtype, torch.float32)
    scale = 255 if pixel_values.dtype == torch.uint8 else 1
    return F.mse_loss(prediction.to(working), pixel_values.to(working) / scale)


@torch.no_grad()
def target_codes(
    encoder: MaskGitVQGANEncoder, codebook: Tensor, pixel_values: Tensor, grid_size: tuple[int, int]
) -> Tensor:
    """The tokenizer's code of each cell of the grid.

    Where the patch is not the tokenizer's own, the image is resized first, so that the two grids are the same
    (bicubic; 256 pixels for patch 14).

    Args:
        encoder: The tokenizer's encoder.
        codebook: `(codes, embed_dim)`.
        pixel_values: `(B, 3, H, W)` in [0, 1] or uint8.
        grid_size: The encoder's patches `(h, w)`.

    Returns:
        `(B, h, w)` int64.
    """
    if pixel_values.dtype == torch.uint8:
        pixel_values = pixel_values / 255
    factor = 2 ** (len(encoder.down) - 1)
    size = (grid_size[0] * factor, grid_size[1] * factor)
    if tuple(pixel_values.shape[-2:]) != size:
        pixel_values = F.interpolate(pixel_values, size=size, mode="bicubic", align_corners=False)
    return nearest_codes(encoder(pixel_values.to(codebook.dtype)), codebook)
