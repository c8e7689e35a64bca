"""The head of online clustering, and how evenly tokens use its prototypes."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.measures.spread import normalized_entropy

NORMALIZATION_EPS = 1e-7
ROWS_AT_A_TIME = 1024


class Prototypes(nn.Module):
    """A table of `K` prototype vectors, not normalized.

    It is not an `nn.Linear` because its initialization differs: N(0, 1).

    Args:
        num_prototypes: Number `K` of prototypes.
        prototype_dim: Width of each prototype.
    """

    def __init__(self, num_prototypes: int, prototype_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, prototype_dim))


class ClusteringHead(nn.Module):
    """An MLP `d -> prototype_hidden_size -> prototype_dim` with L2-normalized output, and prototypes.

    Tokens and cls have one head each (arXiv 2602.01905, online clustering). The loss computes the scores, chunk by
    chunk.

    Args:
        hidden_size: Width `d` of the tokens.
        prototype_hidden_size: Width of the MLP's hidden layer.
        prototype_dim: Width of embeddings and prototypes.
        num_prototypes: Number of prototypes.
    """

    def __init__(self, hidden_size: int, prototype_hidden_size: int, prototype_dim: int, num_prototypes: int):
        from timm.layers import Mlp  # slow to import, and most users of this room need no head

        super().__init__()
        self.mlp = Mlp(hidden_size, prototype_hidden_size, prototype_dim)
        self.prototypes = Prototypes(num_prototypes, prototype_dim)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "ClusteringHead":
        """Builds a head in float32. The shapes of its weights determine its sizes.

        Raises:
            KeyError: if a tensor is missing.
            RuntimeError: if shapes do not fit each other.
        """
        prototype_hidden_size, hidden_size = tensors["mlp.fc1.weight"].shape
        num_prototypes, prototype_dim = tensors["prototypes.weight"].shape
        head = cls(hidden_size, prototype_hidden_size, prototype_dim, num_prototypes)
        head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return head

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embeds tokens `(..., d)` as unit vectors `(..., prototype_dim)` in at least float32."""
        embeddings = self.mlp(hidden_states)
        working = torch.promote_types(embeddings.dtype, torch.float32)
        return F.normalize(embeddings.to(working), dim=-1, eps=NORMALIZATION_EPS)


class PrototypeUse(NamedTuple):
    """How evenly tokens use `K` prototypes.

    Attributes:
        entropy: Entropy of the counts as a share of log K, in [0, 1].
        used: Share of the prototypes that are the nearest one of some token, in (0, 1].
    """

    entropy: float
    used: float


def prototype_use(assignment: Tensor, num_prototypes: int) -> PrototypeUse:
    """Measures how evenly prototypes are used.

    Args:
        assignment: Prototype of each token, `(N,)` int64 in [0, num_prototypes).
        num_prototypes: Number `K` of prototypes, at least 2.

    Returns:
        Good is high for both values. Neither can reach 1 with fewer tokens than prototypes.
    """
    counts = assignment.bincount(minlength=num_prototypes).double()
    return PrototypeUse(normalized_entropy(counts).item(), (counts > 0).double().mean().item())


@torch.inference_mode()
def nearest_prototypes(tokens: Tensor, head: ClusteringHead) -> Tensor:
    """Returns the index of the prototype with the highest score for each token: `(N, d)` to `(N,)` int64."""
    prototypes = head.prototypes.weight
    return torch.cat([(head(chunk.float()) @ prototypes.T).argmax(dim=-1) for chunk in tokens.split(ROWS_AT_A_TIME)])
