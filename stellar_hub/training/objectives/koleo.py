"""KoLeo: spreads the tokens of one image over the sphere.

The Kozachenko-Leonenko estimate of differential entropy as a regularizer (Sablayrolles et al. 2019, arXiv 1806.03198),
applied within each image as in STELLAR (arXiv 2602.01905).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

EPS = 1e-8


def koleo_loss(tokens: Tensor) -> Tensor:
    """Mean of `-log` of half the distance of each token to its nearest other token of the same image.

    Computed in at least float32, also under autocast; the choice of the nearest token takes no gradient.

    Args:
        tokens: `(B, r, d)`, `r >= 2`; normalized here.

    Returns:
        The unweighted loss, a scalar. Lower means more evenly spread; 0 at opposite tokens.

    Raises:
        ValueError: if there are fewer than two tokens to spread.
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
