"""The targets of the objective: the EMA teacher, assignments to prototypes, and which target each token predicts.

Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780), with the momentum schedule of BYOL (arXiv 2006.07733).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stellar_hub.matching import match_tokens
from stellar_hub.measures import ClusteringHead
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.encoder_stellar import StellarEncoder
from stellar_hub.training.model.baselines import BaselineHead
from stellar_hub.training.model.sop_parts import SopHead, build_memories
from stellar_hub.training.model.views import EncodedViews, encode_views
from stellar_hub.training.objectives import prototype_scores, sinkhorn_assign


def build_clustering_head(config: StellarConfig) -> Any:
    """Builds the clustering head of a configuration, a `ClusteringHead`, SOP's, or None for a baseline alone.

    The model initializes its weights.
    """
    if config.token_objective == "none":
        return None
    if config.token_objective != "prototypes":
        return SopHead(config)
    return ClusteringHead(config.hidden_size, config.prototype_hidden_size, config.prototype_dim, config.num_prototypes)


def has_cls_head(config: StellarConfig) -> bool:
    """Returns whether cls has a clustering head of its own; SOP has one head for cls and tokens."""
    return config.use_cls_head and config.token_objective == "prototypes"


class StellarTeacher(nn.Module):
    """An encoder with its sparse tokens and clustering heads, which follow the student's. It takes no gradient.

    Args:
        config: Configuration of the model.

    Attributes:
        cls_memory: Its past embeddings of cls, and `token_memory` those of tokens or patches; None without SOP.
    """

    def __init__(self, config: StellarConfig):
        super().__init__()
        self.encoder = StellarEncoder(config)
        self.clustering_head = build_clustering_head(config)
        # CODEPATH: the student's cls head is optional, and so is the teacher's.
        self.cls_clustering_head = build_clustering_head(config) if has_cls_head(config) else None
        # CODEPATH: memories of its embeddings, for SOP alone.
        self.cls_memory, self.token_memory = build_memories(config)
        # CODEPATH: the teacher's own head of a baseline, for DINO alone.
        self.baseline_head = BaselineHead(config) if config.baseline_loss == "dino" else None

    @torch.no_grad()
    def follow(self, student: Mapping[str, Any], momentum: float) -> None:
        """Sets each parameter to `momentum * teacher + (1 - momentum) * student`.

        Args:
            student: The student's modules, under the names of the teacher's own.
            momentum: Share of the teacher that stays, in [0, 1]; 0 copies the student.
        """
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, module in self.named_children():
            parameters = list(module.parameters())
            if parameters:  # a memory has none
                mine += parameters
                theirs += student[name].parameters()
        if momentum == 0:  # also where weights that were not loaded are still NaN
            for own, other in zip(mine, theirs, strict=True):
                own.copy_(other)
        else:
            torch._foreach_lerp_(mine, theirs, 1 - momentum)


def cosine_momentum(start: float, progress: float) -> float:
    """Returns a momentum that rises as a cosine from `start` to 1 over the run.

    Args:
        start: Momentum at the beginning, in [0, 1].
        progress: Share of the run that is done, in [0, 1].
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


class Targets(NamedTuple):
    """Tokens of one view per image, and what other views predict of them. Nothing here takes a gradient.

    Attributes:
        tokens: Tokens that the tokens of other views are matched to, `(B, r, d)`.
        embeddings: Embeddings of the tokens, `(B, r, p)`, unit vectors.
        assignment: Assignment of each token to the prototypes, `(B r, K)`.
        cls_assignment: Assignment of each cls token to the prototypes, `(B, K)`; None without a cls head.
    """

    tokens: Tensor
    embeddings: Tensor
    assignment: Tensor
    cls_assignment: Tensor | None


@torch.no_grad()
def build_targets(
    views: EncodedViews,
    embeddings: Tensor,
    head: ClusteringHead,
    cls_head: ClusteringHead | None,
    config: StellarConfig,
) -> Targets:
    """Computes the targets that one view per image gives.

    Args:
        views: The encoded views.
        embeddings: Embeddings of their tokens, `(B, r, p)`.
        head: Clustering head of the tokens, which computed the embeddings.
        cls_head: Clustering head of the cls token, or None.
        config: Configuration of the model; its Sinkhorn settings are used.
    """
    cls_assignment = None if cls_head is None else assign_prototypes(cls_head, cls_head(views.cls_token), config)
    assignment = assign_prototypes(head, embeddings.flatten(0, 1), config)
    return Targets(views.tokens, embeddings, assignment, cls_assignment)


@torch.no_grad()
def teacher_targets(teacher: StellarTeacher, pixel_values: Tensor, config: StellarConfig) -> Targets:
    """Computes the targets that the teacher gives for one view per image, `(B, 3, H, W)`."""
    views = encode_views(teacher.encoder, pixel_values)
    embeddings = teacher.clustering_head(views.tokens)
    return build_targets(views, embeddings, teacher.clustering_head, teacher.cls_clustering_head, config)


@torch.no_grad()
def assign_prototypes(head: ClusteringHead, embeddings: Tensor, config: StellarConfig) -> Tensor:
    """Returns the balanced assignment of `(rows, p)` to prototypes, `(rows, K)`, over the rows of all processes."""
    scores = prototype_scores(embeddings, head.prototypes.weight)
    return sinkhorn_assign(scores.div_(config.sinkhorn_temp), config.sinkhorn_num_iters, config.sinkhorn_scale)


def matched_rows(predicted: Tensor, target: Tensor, epsilon: float, num_iters: int, use_matching: bool) -> Tensor:
    """Returns for each predicted token the row of its target among the flattened target tokens.

    Args:
        predicted: Tokens of `B V` views, `(B V, r, d)`, view index fastest.
        target: Tokens of the `B` images that these are views of, `(B, r, d)`.
        epsilon: Weight of the entropy in the matching.
        num_iters: Number of Sinkhorn iterations of the matching.
        use_matching: Whether to match tokens by optimal transport; False pairs them by their order.

    Returns:
        Rows of `target.flatten(0, 1)`, `(B V r,)` int64.
    """
    num_images, num_tokens = target.shape[:2]
    views = predicted.shape[0] // num_images
    first = torch.arange(num_images, device=target.device).repeat_interleave(views)[:, None] * num_tokens  # (B V, 1)
    if use_matching:
        index, _ = match_tokens(predicted, target.repeat_interleave(views, dim=0), epsilon, num_iters)
    else:
        index = torch.arange(num_tokens, device=target.device).expand(num_images * views, -1)
    return (first + index).flatten()
