"""Losses of one formula each: KoLeo, which spreads tokens, and the losses of the reconstruction, codes or pixels.

KoLeo is the Kozachenko-Leonenko estimate of differential entropy as a regularizer (Sablayrolles et al. 2019, arXiv
1806.03198), applied within each image as in STELLAR (arXiv 2602.01905).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder, nearest_codes

EPS = 1e-8


def koleo_loss(tokens: Tensor) -> Tensor:
    """Returns the mean of `-log` of half the distance between each token and the nearest other one of its image.

    It computes in at least float32, also under autocast. The choice of the nearest token takes no gradient.

    Args:
        tokens: Tokens `(B, r, d)` with `r >= 2`; they are normalized here.

    Returns:
        The unweighted loss, a scalar. Lower values mean more evenly spread tokens; two opposite tokens give 0.

    Raises:
        ValueError: if there are fewer than two tokens per image.
    """
    if tokens.ndim != 3 or tokens.shape[1] < 2:
        raise ValueError(f"tokens must have shape (B, r, d) with r >= 2, got {tuple(tokens.shape)}")
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    tokens = F.normalize(tokens, dim=-1, eps=EPS)
    with torch.no_grad(), maybe_autocast(device_type=tokens.device.type, enabled=False):
        similarity = tokens @ tokens.transpose(1, 2)  # (B, r, r)
        similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        nearest = similarity.argmax(dim=-1, keepdim=True)  # (B, r, 1)
    neighbours = tokens.gather(1, nearest.expand_as(tokens))
    distance = 0.5 * (tokens - neighbours + EPS).norm(dim=-1)
    return -(distance + EPS).log().mean()


def code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Returns the mean cross-entropy of logits `(B, n, codes)` against codes `(B, h, w)`, in at least float32."""
    working = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.flatten(0, 1).to(working), codes.flatten())


def pixel_loss(prediction: Tensor, pixel_values: Tensor) -> Tensor:
    """Returns the mean squared error of `(B, 3, H, W)` against images in [0, 1] or uint8, in at least float32."""
    working = torch.promote_types(prediction.dtype, torch.float32)
    scale = 255 if pixel_values.dtype == torch.uint8 else 1
    return F.mse_loss(prediction.to(working), pixel_values.to(working) / scale)


@torch.no_grad()
def target_codes(
    encoder: MaskGitVQGANEncoder, codebook: Tensor, pixel_values: Tensor, grid_size: tuple[int, int]
) -> Tensor:
    """Returns the tokenizer's code of each cell of the grid.

    Where the model's patch size is not the tokenizer's, the image is first resized (bicubic) so that both grids are
    the same: to 256 pixels for a 224-pixel image with patches of 14 pixels.

    Args:
        encoder: Encoder of the tokenizer.
        codebook: Vectors of the codes, `(codes, embed_dim)`.
        pixel_values: Images `(B, 3, H, W)`, floats in [0, 1] or uint8.
        grid_size: Number of patches of the model's encoder, `(h, w)`.

    Returns:
        Codes `(B, h, w)`, int64.
    """
    if pixel_values.dtype == torch.uint8:
        pixel_values = pixel_values / 255
    factor = 2 ** (len(encoder.down) - 1)
    size = (grid_size[0] * factor, grid_size[1] * factor)
    if tuple(pixel_values.shape[-2:]) != size:
        pixel_values = F.interpolate(pixel_values, size=size, mode="bicubic", align_corners=False)
    return nearest_codes(encoder(pixel_values.to(codebook.dtype)), codebook)
