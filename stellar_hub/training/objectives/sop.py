"""SOP: embeddings are compared with drawn anchors and their nearest neighbours in a memory, instead of with prototypes.

Self-Organizing Visual Prototypes (arXiv 2505.21533). The functions here follow the formulas; `sop_loss.py` computes the
same losses without the scores of all rows, for the thousands of anchors of the paper.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from stellar_hub.training.objectives.prototype_loss import default_chunk_size, working_dtype


class SopSupports(NamedTuple):
    """The supports of `A` anchors, `k` of each: its neighbours from the nearest on, then the anchor itself.

    Attributes:
        rows: Their rows in the memory, int64 `(A k,)`.
        scores: Label of each support for its own anchor, in [0, 1], `(A, k)`.
    """

    rows: Tensor
    scores: Tensor


def sop_targets(memory: Tensor, anchors: Tensor, num_supports: int, smoothing: float = 0.1) -> tuple[Tensor, Tensor]:
    """Returns the supports of anchors, and their labels.

    Args:
        memory: Unit vectors, `(K, p)`.
        anchors: Distinct rows of the memory, int64 `(A,)`.
        num_supports: Number `k` of supports of each anchor, the anchor included.
        smoothing: Share of an anchor's own label that goes to the other anchors, in [0, 1].

    Returns:
        Rows of the supports in the memory, int64 `(A k,)`: for each anchor its neighbours from the nearest on, then the
        anchor itself; and labels `(A k, A)`, whose rows sum to 1.

    Raises:
        ValueError: as `sop_supports`.
    """
    supports = sop_supports(memory, anchors, num_supports, smoothing)
    return supports.rows, sop_labels(supports.scores)


@torch.no_grad()
def sop_supports(memory: Tensor, anchors: Tensor, num_supports: int, smoothing: float = 0.1) -> SopSupports:
    """Finds the nearest neighbours of anchors among the rows of a memory that are not anchors.

    It takes a chunk of anchors at a time. A neighbour's score is its cosine to its anchor, within [0, 1]: in the
    authors' code a negative cosine gives a negative label. Two anchors may share a neighbour.

    Args:
        memory: Unit vectors, `(K, p)`.
        anchors: Distinct rows of the memory, int64 `(A,)`. Values are not checked, as this would wait for the device.
        num_supports: Number `k` of supports of each anchor, the anchor included; at most `K - A + 1`.
        smoothing: The anchor's own score is 1 minus this number, in [0, 1].

    Raises:
        ValueError: if shapes do not fit each other, or a number is out of its range.
    """
    if memory.ndim != 2 or anchors.ndim != 1 or anchors.dtype != torch.int64:
        raise ValueError(
            f"memory and anchors must have shapes (K, p) and (A,), and anchors be int64, got {tuple(memory.shape)}, "
            f"{tuple(anchors.shape)} and {anchors.dtype}"
        )
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be within [0, 1], got {smoothing}")
    check_task(memory.shape[0], anchors.shape[0], num_supports)
    memory = memory.to(working_dtype(memory, memory))
    own = memory.new_full((anchors.shape[0], 1), 1 - smoothing)
    if num_supports == 1:
        return SopSupports(anchors.clone(), own)
    with maybe_autocast(device_type=memory.device.type, enabled=False):
        chunks = anchors.split(default_chunk_size(memory.shape[0]))
        nearest = [nearest_rows(memory, chunk, anchors, num_supports - 1) for chunk in chunks]
    cosines, neighbours = (torch.cat(parts) for parts in zip(*nearest, strict=True))  # (A, k - 1) both
    rows = torch.cat([neighbours, anchors[:, None]], dim=1)
    return SopSupports(rows.flatten(), torch.cat([cosines.clamp(0, 1), own], dim=1))


def nearest_rows(memory: Tensor, queries: Tensor, left_out: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns cosines and rows, `(queries, count)`, of the nearest rows that are not left out, the nearest first."""
    similarity = (memory[queries] @ memory.T).index_fill_(1, left_out, -torch.inf)
    cosines, rows = similarity.topk(count, dim=1)
    return cosines, rows


def sop_labels(scores: Tensor) -> Tensor:
    """Returns the labels `(A k, A)` of supports with scores `(A, k)`.

    A support has its score as the label for its own anchor; the other anchors share the rest to 1 evenly. With a single
    anchor each label is 1.
    """
    own, other = label_parts(scores)
    num_anchors, num_supports = scores.shape
    labels = other.reshape(-1, 1).repeat(1, num_anchors)
    anchor = torch.arange(num_anchors, device=scores.device).repeat_interleave(num_supports)
    return labels.scatter_(1, anchor[:, None], own.reshape(-1, 1))


def label_parts(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the label of each support for its own anchor and for each other one, `(A, k)` both.

    The labels of a support sum to 1, so the published division by their sum changes nothing.
    """
    num_anchors = scores.shape[0]
    if num_anchors == 1:
        return torch.ones_like(scores), torch.zeros_like(scores)
    return scores, (1 - scores) / (num_anchors - 1)


def sop_distribution(embeddings: Tensor, supports: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Returns `softmax(embeddings @ supports.T / temperature) @ labels`, in at least float32 also under autocast.

    Supports and labels take no gradient.

    Args:
        embeddings: Unit vectors, `(..., p)`.
        supports: Embeddings of the supports, `(A k, p)`.
        labels: Labels from `sop_targets`, `(A k, A)`.
        temperature: Number that divides the cosines, above 0.

    Returns:
        Distributions over the anchors, `(..., A)`.
    """
    with maybe_autocast(device_type=embeddings.device.type, enabled=False):
        working = working_dtype(embeddings, supports)
        logits = embeddings.to(working) @ supports.detach().to(working).T / temperature
        return logits.softmax(dim=-1) @ labels.detach().to(working)


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns `-sum(teacher * log(student))` over the last dimension, with no gradient for the teacher."""
    working = working_dtype(teacher, student)
    student = student.to(working)
    return -torch.xlogy(teacher.detach().to(working), student.clamp_min(torch.finfo(working).tiny)).sum(dim=-1)


def sop_class_loss(student_views: Sequence[Tensor], teacher_views: Sequence[Tensor]) -> Tensor:
    """Returns the mean cross-entropy over all pairs of different views of an image.

    Args:
        student_views: Distributions of the student's views, `(B, A)` each: first the views that the teacher sees.
        teacher_views: Distributions of the teacher's views, `(B, A)` each, in the same order.

    Raises:
        ValueError: if there are fewer views of the student than of the teacher, or no pair.
    """
    check_views(len(student_views), len(teacher_views))
    losses = [
        cross_entropy(teacher, student).sum() / max(len(student), 1)
        for i, student in enumerate(student_views)
        for j, teacher in enumerate(teacher_views)
        if i != j
    ]
    return torch.stack(losses).mean()


def sop_patch_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean cross-entropy over an image's masked patches, then over images.

    An image without a masked patch counts as 0.

    Args:
        student: Distributions of the student's patches, `(B, n, A)`.
        teacher: Distributions of the teacher's patches at the same places, `(B, n, A)`.
        mask: True or 1 where the student's patch is masked, `(B, n)`.
    """
    losses = cross_entropy(teacher, student)
    return (losses * patch_weights(mask, losses.dtype)).sum()


def patch_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the weight of each patch in the loss, `(B, n)`: 1 by masked patches of its image and by images."""
    mask = mask.to(dtype)
    return mask / (mask.sum(dim=1, keepdim=True).clamp_min(1) * max(len(mask), 1))


def check_task(num_rows: int, num_anchors: int, num_supports: int) -> None:
    """Raises ValueError unless a memory of `num_rows` has enough rows for the anchors and their neighbours."""
    if num_anchors < 1 or num_supports < 1:
        raise ValueError(f"num_anchors and num_supports must be at least 1, got {num_anchors} and {num_supports}")
    if num_anchors > num_rows:
        raise ValueError(
            f"num_anchors must be at most the {num_rows} rows of the memory, got {num_anchors}: draw fewer anchors, or "
            "enlarge the memory"
        )
    rest = num_rows - num_anchors
    if num_supports - 1 > rest:
        raise ValueError(
            f"num_supports must be at most {rest + 1}, the anchor and the {rest} rows of the memory that are not "
            f"anchors, got {num_supports}: lower num_supports or num_anchors, or enlarge the memory of {num_rows} rows"
        )


def check_views(num_student: int, num_teacher: int) -> None:
    """Raises ValueError unless the student has all views of the teacher, and there are two different ones."""
    if not 1 <= num_teacher <= num_student or num_student < 2:
        raise ValueError(
            "the student must have at least two views, and the teacher's must be the first of them, got "
            f"{num_student} views of the student and {num_teacher} of the teacher"
        )
