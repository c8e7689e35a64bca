"""The losses of SOP in little memory: the scores of all rows, thousands of anchors times their supports, never exist.

As in `prototype_loss.py`, value and gradients are computed together, one chunk of rows after the other. The label
matrix is never built either. A support has one label for its own anchor and an equal one for all others, so
`softmax @ labels` is a sum over each anchor's supports plus a number per row.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from transformers.utils.generic import maybe_autocast

from stellar_hub.training.objectives.prototype_loss import default_chunk_size, working_dtype
from stellar_hub.training.objectives.sop import check_views, label_parts, patch_weights


def sop_loss(
    embeddings: Tensor,
    supports: Tensor,
    scores: Tensor,
    teacher_distribution: Tensor,
    temperature: float,
    target_index: Tensor | None = None,
    *,
    row_weights: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Returns the mean over rows of the cross-entropy of the teacher's distribution and that of the embedding.

    It computes in at least float32, also under autocast. Rows of the teacher's distribution need not sum to 1. Only the
    embeddings take a gradient. It is computed with the value, and `backward` only scales it, so the loss can be
    differentiated only once.

    Args:
        embeddings: Unit vectors, `(N, p)`.
        supports: Embeddings of the supports, `(A k, p)`.
        scores: Label of each support for its own anchor, in [0, 1], `(A, k)`.
        teacher_distribution: Distributions over the anchors, `(M, A)`, not negative.
        temperature: Number that divides the cosines, above 0.
        target_index: Row of the teacher's distribution that each embedding predicts, int64 `(N,)` in [0, M). By default
            embedding `i` predicts row `i`, and `M = N`. Values are not checked, as this would wait for the device.
        row_weights: Weight of each row, `(N,)`, in place of `1 / N`.
        chunk_size: Number of rows per chunk. By default as many as have scores of 32 MB.

    Returns:
        The loss, a scalar; 0 if there are no rows.

    Raises:
        ValueError: if shapes or types do not fit each other, or a number is out of its range.
    """
    chunk_size = check_operands(embeddings, supports, scores, temperature, chunk_size)
    check_targets(embeddings, scores, teacher_distribution, target_index, row_weights)
    loss: Tensor = untraced_loss(
        embeddings, supports, scores, teacher_distribution, target_index, row_weights, temperature, chunk_size
    )
    return loss


@torch.no_grad()
def sop_teacher_distribution(
    embeddings: Tensor, supports: Tensor, scores: Tensor, temperature: float, *, chunk_size: int | None = None
) -> Tensor:
    """Returns `sop_distribution` of `(N, p)`, `(N, A)`, in chunks and without gradients. Arguments as of `sop_loss`."""
    chunk_size = check_operands(embeddings, supports, scores, temperature, chunk_size)
    distribution: Tensor = untraced_distribution(embeddings, supports, scores, temperature, chunk_size)
    return distribution


def fused_sop_class_loss(
    student_views: Sequence[Tensor],
    teacher_views: Sequence[Tensor],
    supports: Tensor,
    scores: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Returns `sop_class_loss` of the distributions of embeddings.

    Args:
        student_views: Embeddings of the student's views, `(B, p)` each: first the views that the teacher sees.
        teacher_views: Embeddings of the teacher's views, `(B, p)` each, in the same order.
        supports: Embeddings of the supports, `(A k, p)`.
        scores: Label of each support for its own anchor, in [0, 1], `(A, k)`.
        student_temperature: Temperature of the student's distributions.
        teacher_temperature: Temperature of the teacher's distributions.

    Raises:
        ValueError: as `sop_class_loss` and `sop_loss`.
    """
    num_student, num_teacher, num_images = len(student_views), len(teacher_views), len(teacher_views[0])
    check_views(num_student, num_teacher)
    flat = sop_teacher_distribution(torch.cat(list(teacher_views)), supports, scores, teacher_temperature)
    teacher = flat.view(num_teacher, num_images, -1)
    # A cross-entropy is linear in the teacher's distribution, so a view predicts the sum over the teacher's other
    # views: a sum for each view that the teacher sees, and the one over all views for the rest.
    others = [torch.cat([teacher[:i], teacher[i + 1 :]]).sum(dim=0) for i in range(num_teacher + 1)]
    view = torch.arange(num_student, device=flat.device).clamp_max(num_teacher)
    index = (view[:, None] * num_images + torch.arange(num_images, device=flat.device)).flatten()
    loss = sop_loss(torch.cat(list(student_views)), supports, scores, torch.cat(others), student_temperature, index)
    return loss * (num_student / (num_student * num_teacher - num_teacher))


def fused_sop_patch_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    supports: Tensor,
    scores: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Returns `sop_patch_loss` of the distributions of embeddings.

    Args:
        student: Embeddings of the student's patches, `(B, n, p)`.
        teacher: Embeddings of the teacher's patches at the same places, `(B, n, p)`.
        mask: True or 1 where the student's patch is masked, `(B, n)`.
        supports: Embeddings of the supports, `(A k, p)`.
        scores: Label of each support for its own anchor, in [0, 1], `(A, k)`.
        student_temperature: Temperature of the student's distributions.
        teacher_temperature: Temperature of the teacher's distributions.

    Raises:
        ValueError: as `sop_loss`.
    """
    targets = sop_teacher_distribution(teacher.flatten(0, 1), supports, scores, teacher_temperature)
    weights = patch_weights(mask, targets.dtype).flatten()
    return sop_loss(student.flatten(0, 1), supports, scores, targets, student_temperature, row_weights=weights)


@torch.compiler.disable  # traced, the loop over chunks would be unrolled
def untraced_loss(embeddings: Tensor, supports: Tensor, scores: Tensor, *rest: Any) -> Tensor:
    """Returns the loss of operands that were checked."""
    with maybe_autocast(device_type=embeddings.device.type, enabled=False):
        working = working_dtype(embeddings, supports)
        operands = embeddings.to(working), supports.detach().to(working), scores.detach().to(working)
        # Gradients are always off inside `forward`, whatever the caller's mode.
        loss: Tensor = SopLoss.apply(*operands, *rest, torch.is_grad_enabled())
        return loss


@torch.compiler.disable
def untraced_distribution(
    embeddings: Tensor, supports: Tensor, scores: Tensor, temperature: float, chunk_size: int
) -> Tensor:
    """Returns the distributions of operands that were checked."""
    with maybe_autocast(device_type=embeddings.device.type, enabled=False):
        working = working_dtype(embeddings, supports)
        embeddings = embeddings.to(working)
        table = SupportTable(supports.to(working), scores.to(working), temperature, min(chunk_size, len(embeddings)))
        distribution = embeddings.new_empty(len(embeddings), scores.shape[0])
        for rows, part in zip(distribution.split(chunk_size), embeddings.split(chunk_size), strict=True):
            rows.copy_(table.compare(part).probabilities)
        return distribution


class SopLoss(Function):
    """The autograd function that calls `loss_and_gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        supports: Tensor,
        scores: Tensor,
        teacher_distribution: Tensor,
        target_index: Tensor | None,
        row_weights: Tensor | None,
        temperature: float,
        chunk_size: int,
        differentiable: bool,
    ) -> Tensor:
        """Returns the loss, and keeps the gradient, which is as large as the embeddings."""
        targets = teacher_distribution, target_index, row_weights
        wanted = differentiable and ctx.needs_input_grad[0]
        loss, gradient = loss_and_gradient(embeddings, supports, scores, *targets, temperature, chunk_size, wanted)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the kept gradient times that of the loss."""
        if torch.is_grad_enabled():  # as in `PrototypeLoss`
            raise RuntimeError("sop_loss can be differentiated only once: leave out create_graph=True")
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient * grad_outputs[0], *[None] * 8)


def loss_and_gradient(
    embeddings: Tensor,
    supports: Tensor,
    scores: Tensor,
    teacher_distribution: Tensor,
    target_index: Tensor | None,
    row_weights: Tensor | None,
    temperature: float,
    chunk_size: int,
    for_embeddings: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns the loss and, if it is wanted, its gradient for the embeddings, in their dtype."""
    table = SupportTable(supports, scores, temperature, min(chunk_size, len(embeddings)))
    if row_weights is None:
        weights = embeddings.new_full((len(embeddings),), 1 / max(len(embeddings), 1))
    else:
        weights = row_weights.detach().to(embeddings.dtype)
    losses = embeddings.new_empty(len(embeddings))
    gradient = torch.empty_like(embeddings) if for_embeddings else None
    for start in range(0, len(embeddings), chunk_size):
        rows = slice(start, start + chunk_size)
        comparison = table.compare(embeddings[rows])
        targets = teacher_distribution[rows if target_index is None else target_index[rows]].to(embeddings.dtype)
        losses[rows] = -torch.xlogy(targets, comparison.probabilities).sum(dim=1)
        if gradient is not None:
            table.write_gradient(comparison, targets, weights[rows, None], gradient[rows])
    return (losses * weights).sum(), gradient


class Comparison(NamedTuple):
    """A chunk of rows, compared with the supports.

    Attributes:
        exponentials: Exponentials of the scores, `(k, rows, A)`: first the nearest neighbour of each anchor, and so on.
        total: Their sum over all supports, `(rows, 1)`.
        probabilities: Distributions over the anchors, `(rows, A)`.
    """

    exponentials: Tensor
    total: Tensor
    probabilities: Tensor


class SupportTable:
    """The supports of one task, and the buffer that chunks of rows are compared in.

    Args:
        supports: Embeddings of the supports, `(A k, p)`.
        scores: Label of each support for its own anchor, `(A, k)`, in the same dtype.
        temperature: Number that divides the cosines.
        chunk_size: Largest number of rows of a chunk.
    """

    def __init__(self, supports: Tensor, scores: Tensor, temperature: float, chunk_size: int):
        num_anchors, num_supports = scores.shape
        self.temperature = temperature
        # With the anchor in the last dimension, the sum over an anchor's supports is a sum of k tables.
        self.places = supports.reshape(num_anchors, num_supports, -1).unbind(1)  # k times (A, p)
        own, other = (part.T.contiguous() for part in label_parts(scores))  # (k, A)
        self.other, self.excess = other, own - other
        self.columns = torch.stack([torch.ones_like(other), other], dim=-1)  # (k, A, 2)
        self.buffer = supports.new_empty(num_supports, chunk_size, num_anchors)

    def compare(self, embeddings: Tensor) -> Comparison:
        """Compares embeddings `(rows, p)` with the supports; the next call overwrites its result."""
        exponentials = self.buffer[:, : len(embeddings)]
        queries = embeddings / self.temperature
        for place, scores in zip(self.places, exponentials, strict=True):
            torch.mm(queries, place.T, out=scores)
        exponentials.sub_(exponentials.amax(dim=(0, 2), keepdim=True)).exp_()
        total, shared = (exponentials @ self.columns).sum(dim=0).split(1, dim=1)  # (rows, 1) both
        probabilities = shared.repeat(1, self.other.shape[1])
        for excess, scores in zip(self.excess, exponentials, strict=True):
            probabilities.addcmul_(scores, excess)
        # Below this is rounding: where scores below 1 / A make the excess negative, terms may cancel.
        limits = torch.finfo(embeddings.dtype)
        probabilities = torch.maximum(probabilities, limits.eps * shared, out=probabilities).div_(total)
        return Comparison(exponentials, total, probabilities.clamp_min_(limits.tiny))

    def write_gradient(self, comparison: Comparison, targets: Tensor, weights: Tensor, gradient: Tensor) -> None:
        """Writes the gradient of a chunk's weighted losses for its embeddings, `(rows, p)`, and spoils the comparison.

        With targets `t` of sum `m`, probabilities `p`, softmax `s` and labels `y`, the loss is `-sum_a t_a log p_a`
        and its gradient for the score of support `j` is `s_j (m - sum_a y_ja t_a / p_a)`.
        """
        exponentials, total, probabilities = comparison
        scale = weights / (self.temperature * total)
        mass = targets.sum(dim=1, keepdim=True).mul_(scale)
        ratio = torch.div(targets, probabilities, out=probabilities).mul_(scale)  # (rows, A)
        ratio_sum = ratio.sum(dim=1, keepdim=True)
        factor = torch.empty_like(ratio)
        gradient.zero_()
        for place, scores, excess, other in zip(self.places, exponentials, self.excess, self.other, strict=True):
            torch.addcmul(mass, ratio_sum, other, value=-1, out=factor).addcmul_(ratio, excess, value=-1)
            gradient.addmm_(scores.mul_(factor), place)


def check_operands(
    embeddings: Tensor, supports: Tensor, scores: Tensor, temperature: float, chunk_size: int | None
) -> int:
    """Returns the chunk size, and raises ValueError unless the operands fit each other."""
    shapes = tuple(embeddings.shape), tuple(supports.shape), tuple(scores.shape)
    fits = embeddings.ndim == supports.ndim == scores.ndim == 2 and scores.numel() > 0
    if not fits or shapes[0][1] != shapes[1][1] or shapes[1][0] != scores.numel():
        raise ValueError(
            "embeddings, supports and scores must have shapes (N, p), (A k, p) and (A, k) with A k >= 1, got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    if chunk_size is None:
        chunk_size = default_chunk_size(scores.numel())
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None, got {chunk_size}")
    return chunk_size


def check_targets(
    embeddings: Tensor,
    scores: Tensor,
    teacher_distribution: Tensor,
    target_index: Tensor | None,
    row_weights: Tensor | None,
) -> None:
    """Raises ValueError unless the teacher's distribution is `(M, A)`, and `target_index` is int64 `(N,)` or M = N."""
    num_rows, shape = len(embeddings), tuple(teacher_distribution.shape)
    if len(shape) != 2 or shape[1] != len(scores):
        raise ValueError(f"teacher_distribution must have shape (M, A) with A = {len(scores)}, got {shape}")
    if target_index is None and shape[0] != num_rows:
        raise ValueError(
            f"without target_index teacher_distribution must have one row for each of the {num_rows} embeddings, got "
            f"{shape[0]} rows: pass target_index"
        )
    if target_index is not None and (target_index.shape != (num_rows,) or target_index.dtype != torch.int64):
        raise ValueError(
            f"target_index must be int64 with shape ({num_rows},), one index for each embedding, got "
            f"{target_index.dtype} with shape {tuple(target_index.shape)}"
        )
    if row_weights is not None and row_weights.shape != (num_rows,):
        raise ValueError(f"row_weights must have shape ({num_rows},), got {tuple(row_weights.shape)}")
