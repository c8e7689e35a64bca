"""The low-rank factorization of STELLAR: where each token is (`L`), and the dense map `Z = L S`.

Paper: arXiv 2602.01905, section 3. Shapes: `B` images, `n` patches, `r` sparse tokens, `d` encoder width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

NORMALIZATION_EPS = 1e-7
SMALLEST_SHARE = 1e-30  # above 0, so that a row whose kept tokens have no share at all is shared evenly


def localize(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Assigns each patch softly to the tokens: `softmax_r(cos(query, key) / temperature)`.

    The computation and its result are at least float32, also under autocast. With a temperature of 0.06 the logits
    reach +-17, where bfloat16 has steps of 0.06 to 0.12 and would move the weights by the same relative amount.

    Args:
        query: Projected patch features, `(B, n, d)`.
        key: Projected sparse tokens, `(B, r, d)`.
        temperature: Softmax temperature, above 0.

    Returns:
        `L`, `(B, n, r)` in [0, 1]. Every row sums to 1.
    """
    with maybe_autocast(device_type=query.device.type, enabled=False):
        working = torch.promote_types(query.dtype, torch.float32)
        query = F.normalize(query.to(working), dim=-1, eps=NORMALIZATION_EPS)
        key = F.normalize(key.to(working), dim=-1, eps=NORMALIZATION_EPS)
        similarity = query @ key.transpose(1, 2)  # (B, n, r)
        return torch.softmax(similarity / temperature, dim=-1)


def renormalize(localization: Tensor, kept: Tensor | None = None) -> Tensor:
    """Shares each patch among the tokens that are kept, in proportion to what they had.

    A part of a softmax, divided by its sum, is the softmax over that part. So the result equals, up to rounding, the
    localization of the kept tokens alone.

    Args:
        localization: `L` of all tokens, or columns of it, `(B, n, r)` in [0, 1].
        kept: Which tokens of each image to keep, booleans `(B, r)`; None keeps all columns.

    Returns:
        `L`, `(B, n, r)` in the same dtype. Every row sums to 1; tokens that are not kept have 0.
    """
    shares = localization.to(torch.promote_types(localization.dtype, torch.float32)).clamp_min(SMALLEST_SHARE)
    if kept is not None:
        shares = shares * kept[:, None]
    return (shares / shares.sum(dim=-1, keepdim=True)).to(localization.dtype)


def low_rank_product(localization: Tensor, semantics: Tensor) -> Tensor:
    """Returns the dense map `Z = L S`, `(B, n, r) @ (B, r, d) -> (B, n, d)`, of rank at most `r` per image."""
    return localization @ semantics


class StellarLocalization(nn.Module):
    """The two projections into the space where patches are compared with tokens.

    Args:
        hidden_size: Width `d` of the encoder.
        spatial_temp: Temperature of the softmax over tokens.
    """

    def __init__(self, hidden_size: int, spatial_temp: float):
        super().__init__()
        self.spatial_temp = spatial_temp
        self.dense_proj = nn.Linear(hidden_size, hidden_size)
        self.sparse_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, patch_features: Tensor, semantics: Tensor) -> Tensor:
        """Returns `L`, `(B, n, r)`, of patches `(B, n, d)` and tokens `(B, r, d)`, in the dtype of the tokens."""
        localization = localize(self.dense_proj(patch_features), self.sparse_proj(semantics), self.spatial_temp)
        return localization.to(semantics.dtype)
