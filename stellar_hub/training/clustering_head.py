"""The head of online clustering: an embedding on the sphere, and the prototypes it is compared with."""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig

NORMALIZATION_EPS = 1e-7


class Prototypes(nn.Module):
    """`K` prototype vectors, not normalized.

    A class of its own and no `nn.Linear`, as its initialization is another: N(0, 1).
    """

    def __init__(self, num_prototypes: int, prototype_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, prototype_dim))


class ClusteringHead(nn.Module):
    """MLP `d -> prototype_hidden_size -> prototype_dim`, L2-normalized, and prototypes.

    Tokens and cls have one each (arXiv 2602.01905, online clustering). Scores are not computed here: the loss does
    that chunk by chunk.

    Args:
        config: A `StellarConfig` (its `prototype_*` fields and `num_prototypes`).
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        self.mlp = Mlp(config.hidden_size, config.prototype_hidden_size, config.prototype_dim)
        self.prototypes = Prototypes(config.num_prototypes, config.prototype_dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`(..., d)` to unit vectors `(..., prototype_dim)` in at least float32."""
        embeddings = self.mlp(hidden_states)
        working = torch.promote_types(embeddings.dtype, torch.float32)
        return F.normalize(embeddings.to(working), dim=-1, eps=NORMALIZATION_EPS)
