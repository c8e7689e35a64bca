"""The head of online clustering and its prototypes: what it computes, and how evenly the prototypes are used."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

NORMALIZATION_EPS = 1e-7
ROWS_AT_A_TIME = 1024


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
        hidden_size: Width `d` of the tokens.
        prototype_hidden_size: Width of the MLP's hidden layer.
        prototype_dim: Width of embeddings and prototypes.
        num_prototypes: How many prototypes there are.
    """

    def __init__(self, hidden_size: int, prototype_hidden_size: int, prototype_dim: int, num_prototypes: int):
        super().__init__()
        self.mlp = Mlp(hidden_size, prototype_hidden_size, prototype_dim)
        self.prototypes = Prototypes(num_prototypes, prototype_dim)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "ClusteringHead":
        """Builds a head, in float32, whose sizes follow from the shapes of its weights.

        Raises:
            KeyError: if a tensor is missing.
            RuntimeError: if shapes do not fit each other.
        """
        hidden_size, (num_prototypes, prototype_dim) = (
            tensors["mlp.fc1.weight"].shape,
            tensors["prototypes.weight"].shape,
        )
        head = cls(hidden_size[1], hidden_size[0], prototype_dim, num_prototypes)
        head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return head

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`(..., d)` to unit vectors `(..., prototype_dim)` in at least float32."""
        embeddings = self.mlp(hidden_states)
        working = torch.promote_types(embeddings.dtype, torch.float32)
        return F.normalize(embeddings.to(working), dim=-1, eps=NORMALIZATION_EPS)


class PrototypeUse(NamedTuple):
    """Of `K` prototypes."""

    entropy: float  # as a share of log K, in [0, 1]
    used: float  # share of prototypes that are anyone's nearest, in (0, 1]


def prototype_use(assignment: Tensor, num_prototypes: int) -> PrototypeUse:
    """How evenly prototypes are used.

    Args:
        assignment: The prototype of each token, `(N,)` int64 in [0, num_prototypes).
        num_prototypes: `K`, at least 2.

    Returns:
        Good is high for both; with fewer tokens than prototypes neither can reach 1.
    """
    counts = assignment.bincount(minlength=num_prototypes).double()
    entropy = torch.special.entr(counts / counts.sum()).sum().item() / math.log(num_prototypes)
    return PrototypeUse(entropy, (counts > 0).double().mean().item())


@torch.inference_mode()
def nearest_prototypes(tokens: Tensor, head: ClusteringHead) -> Tensor:
    """Returns the prototype with the highest score for each token, `(N, d)` to `(N,)` int64."""
    prototypes = head.prototypes.weight
    return torch.cat([(head(chunk.float()) @ prototypes.T).argmax(dim=-1) for chunk in tokens.split(ROWS_AT_A_TIME)])
