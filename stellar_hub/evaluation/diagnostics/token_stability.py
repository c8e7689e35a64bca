"""Do two views of a picture give the same tokens?

Tokens are matched as training matches them (STELLAR, arXiv 2602.01905, by Sinkhorn's algorithm), then compared.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import match_tokens


class TokenStability(NamedTuple):
    """Means over all tokens of all pictures."""

    matched: float  # cosine of matched tokens, in [-1, 1]
    unmatched: float  # cosine of all other pairs of the two views, in [-1, 1]
    same_index: float  # share of tokens matched to the token of the same index, in [0, 1]


@torch.no_grad()
def token_stability(first: Tensor, second: Tensor) -> TokenStability:
    """Compare the tokens of two views of the same pictures.

    Args:
        first: `(B, r, d)`.
        second: `(B, r, d)`, of other views of the same pictures.

    Returns:
        Good is `matched` near 1 and well above `unmatched`; where the two are alike, all tokens are.
    """
    index, _ = match_tokens(first, second)  # (B, r)
    cosine = F.normalize(first.double(), dim=-1) @ F.normalize(second.double(), dim=-1).mT  # (B, r, r)
    matched = cosine.gather(2, index[..., None])[..., 0]  # (B, r)
    pairs = cosine.numel() - matched.numel()
    others = (cosine.sum() - matched.sum()).item() / pairs if pairs else 0.0
    own = torch.arange(first.shape[1], device=index.device)
    return TokenStability(matched.mean().item(), others, (index == own).double().mean().item())
