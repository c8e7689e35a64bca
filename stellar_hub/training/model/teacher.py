"""The EMA teacher: a slowly following copy of what makes the assignments.

Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780), with the momentum schedule of BYOL (arXiv 2006.07733).
"""

import math

import torch
from torch import Tensor, nn

from stellar_hub.measures import ClusteringHead
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.encoder_stellar import StellarEncoder


def clustering_head_of(config: StellarConfig) -> ClusteringHead:
    """Builds the clustering head of a configuration; its initialization is the model's."""
    return ClusteringHead(config.hidden_size, config.prototype_hidden_size, config.prototype_dim, config.num_prototypes)


class StellarTeacher(nn.Module):
    """Encoder with its sparse tokens, and the clustering heads. Takes no gradient.

    Args:
        config: A `StellarConfig`.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        self.encoder = StellarEncoder(config)
        self.clustering_head = clustering_head_of(config)
        # CODEPATH: as in the student, whose cls head is optional.
        self.cls_clustering_head = clustering_head_of(config) if config.use_cls_head else None

    @torch.no_grad()
    def follow(self, student: nn.ModuleDict | dict[str, nn.Module], momentum: float) -> None:
        """`teacher = momentum * teacher + (1 - momentum) * student`, parameter by parameter.

        Args:
            student: Modules under the names of this class's own.
            momentum: In [0, 1]; 0 copies the student.
        """
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, module in self.named_children():
            mine += module.parameters()
            theirs += student[name].parameters()
        torch._foreach_lerp_(mine, theirs, 1 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """Momentum that rises from `start` to 1 over the run.

    Args:
        start: Momentum at the beginning, in [0, 1].
        progress: Share of the run that is done, in [0, 1].
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
