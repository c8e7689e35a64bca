"""Cross-entropy of scores over prototypes against soft assignments, in little memory.

STELLAR (arXiv 2602.01905) uses it for all clustering losses. With thousands of rows and 16384 prototypes each `(N, K)`
tensor takes a gigabyte, and the plain formula keeps five of them. This version computes value and gradients together,
one chunk of rows after the other, as fused linear cross-entropies do (Hsu et al. 2024, arXiv 2410.10989): no `(N, K)`
tensor ever exists, and nothing is computed twice.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from transformers.utils.generic import maybe_autocast

# Size of one chunk's scores in float32, by the type of the device. On a CPU, by benchmarks/prototype_loss.py
# --chunk-sizes, a quarter of it takes 10 to 15% longer, and four times as much is not faster. A GPU gets fewer and
# larger chunks, as each of them is a dozen launches.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
ProductPrecision = Literal["fp32", "tf32"]


class LossAndGradients(NamedTuple):
    """The loss, and its gradients for the operands; None for an operand that needs no gradient."""

    loss: Tensor
    embeddings: Tensor | None
    prototypes: Tensor | None


def prototype_scores(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Returns the scores of all rows, `embeddings @ prototypes.T`, in at least float32 also under autocast.

    Args:
        embeddings: Embeddings of the rows, `(N, p)`.
        prototypes: Prototype vectors, `(K, p)`.

    Returns:
        Scores `(N, K)`.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    check_operands(embeddings, prototypes)
    with maybe_autocast(device_type=embeddings.device.type, enabled=False):
        working = working_dtype(embeddings, prototypes)
        return embeddings.to(working) @ prototypes.to(working).T


def prototype_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    target_index: Tensor | None = None,
    *,
    temperature: float = 0.12,
    chunk_size: int | None = None,
    precision: ProductPrecision = "fp32",
) -> Tensor:
    """Returns the mean over rows of `-sum_k a_k log_softmax(scores / temperature)_k`.

    Here `a` is `assignment[target_index[row]]`.

    It computes in at least float32, also under autocast. Rows of the assignment need not sum to 1. The gradients are
    computed with the value, and `backward` only scales them, so the loss can be differentiated only once.

    Args:
        embeddings: Embeddings of the rows, `(N, p)`; their scores are `embeddings @ prototypes.T`.
        prototypes: Prototype vectors, `(K, p)`.
        assignment: Assignment from `sinkhorn_assign`, `(M, K)`, not negative. It takes no gradient.
        target_index: Row of the assignment that each embedding predicts, int64 `(N,)` in [0, M). By default embedding
            `i` predicts row `i`, and `M = N`.
        temperature: Number that divides the scores, above 0.
        chunk_size: Number of rows per chunk. By default as many as have scores of 32 MB, on a GPU 256 MB.
        precision: "tf32" lets a GPU round the operands of the products to TF32, 10 bits of mantissa; sums stay float32.
            CPUs, and operands of float64, do not round.

    Returns:
        The loss, a scalar; 0 if there are no rows.

    Raises:
        ValueError: if shapes do not fit each other, `target_index` is not int64, or a number is out of its range.
            It does not check the values of `target_index`, as a check would wait for the device.
    """
    check_operands(embeddings, prototypes)
    check_targets(embeddings, prototypes, assignment, target_index)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    if chunk_size is None:
        chunk_size = default_chunk_size(prototypes.shape[0], prototypes.device.type)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None, got {chunk_size}")
    if precision not in ("fp32", "tf32"):
        raise ValueError(f"precision must be 'fp32' or 'tf32', got {precision!r}")
    with product_precision(precision):
        loss: Tensor = untraced_loss(embeddings, prototypes, assignment, target_index, temperature, chunk_size)
    return loss


@contextmanager
def product_precision(precision: ProductPrecision) -> Iterator[None]:
    """Lets GPUs compute products of float32 as TF32 meanwhile, if `precision` says so, and restores their setting."""
    if precision == "fp32":
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@torch.compiler.disable  # traced, the loop over chunks would be unrolled
def untraced_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    target_index: Tensor | None,
    temperature: float,
    chunk_size: int,
) -> Tensor:
    """Returns the loss of operands that were checked."""
    with maybe_autocast(device_type=embeddings.device.type, enabled=False):
        working = working_dtype(embeddings, prototypes)
        loss: Tensor = PrototypeLoss.apply(
            embeddings.to(working),
            prototypes.to(working),
            assignment,
            target_index,
            temperature,
            chunk_size,
            torch.is_grad_enabled(),  # it is always off inside `forward`, whatever the caller's mode
        )
        return loss


class PrototypeLoss(Function):
    """The autograd function that calls `loss_and_gradients`."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        prototypes: Tensor,
        assignment: Tensor,
        target_index: Tensor | None,
        temperature: float,
        chunk_size: int,
        differentiable: bool,
    ) -> Tensor:
        """Returns the loss, and keeps the gradients, which are not larger than the operands."""
        wanted = [differentiable and needed for needed in ctx.needs_input_grad[:2]]
        result = loss_and_gradients(
            embeddings, prototypes, assignment, target_index, temperature, chunk_size, wanted[0], wanted[1]
        )
        ctx.save_for_backward(result.embeddings, result.prototypes)
        return result.loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the kept gradients times the gradient of the loss."""
        # `once_differentiable` would miss the common case, a gradient of the loss that is the constant 1: second
        # derivatives would silently lack this term.
        if torch.is_grad_enabled():
            raise RuntimeError("prototype_loss can be differentiated only once: leave out create_graph=True")
        gradients = [None if kept is None else kept * grad_outputs[0] for kept in ctx.saved_tensors]
        return (*gradients, None, None, None, None, None)


def loss_and_gradients(
    embeddings: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    target_index: Tensor | None,
    temperature: float,
    chunk_size: int,
    for_embeddings: bool,
    for_prototypes: bool,
) -> LossAndGradients:
    """Returns the loss and the wanted gradients, in the dtype of the operands, which must have the same one.

    It holds three buffers of a chunk's size: the scores, which turn in place into their own gradient, the gathered rows
    of the assignment, and the product of both.
    """
    num_rows, num_prototypes = embeddings.shape[0], prototypes.shape[0]
    losses = embeddings.new_zeros(num_rows)
    scale = 1 / (temperature * max(num_rows, 1))
    grad_embeddings = torch.zeros_like(embeddings) if for_embeddings else None
    grad_prototypes = torch.zeros_like(prototypes) if for_prototypes else None
    scores_buffer = embeddings.new_empty(min(chunk_size, num_rows), num_prototypes)
    product_buffer = torch.empty_like(scores_buffer)
    targets_buffer = None if target_index is None else torch.empty_like(scores_buffer, dtype=assignment.dtype)
    mass = assignment.sum(dim=1, keepdim=True, dtype=embeddings.dtype)
    mass = mass if target_index is None else mass[target_index]
    for start in range(0, num_rows, chunk_size):
        rows = slice(start, start + chunk_size)
        part = embeddings[rows]
        scores = torch.mm(part / temperature, prototypes.T, out=scores_buffer[: len(part)])
        targets = target_rows(assignment, target_index, rows, targets_buffer).to(scores.dtype)
        losses[rows], descent = row_losses(scores, targets, mass[rows], product_buffer[: len(part)])
        if grad_embeddings is not None:
            grad_embeddings[rows].addmm_(descent, prototypes, alpha=-scale)
        if grad_prototypes is not None:
            grad_prototypes.addmm_(descent.T, part, alpha=-scale)
    return LossAndGradients(losses.sum() / max(num_rows, 1), grad_embeddings, grad_prototypes)


def row_losses(scores: Tensor, targets: Tensor, mass: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of each row, `(rows,)`, and minus its gradient for the scores, `(rows, K)`, over the scores.

    With `m` the largest score of a row, the loss is `sum_k a_k log(sum_j e^(x_j - m)) - sum_k a_k (x_k - m)`, and its
    gradient `(sum_k a_k) softmax(x) - a`. The sum of `a`, `mass`, is 1, except in rows whose Sinkhorn mass vanished. It
    overwrites `product`, `(rows, K)`.
    """
    scores -= scores.amax(dim=1, keepdim=True)
    expected = torch.mul(targets, scores, out=product).sum(dim=1, keepdim=True)
    total = scores.exp_().sum(dim=1, keepdim=True)
    losses = mass * total.log() - expected
    return losses[:, 0], torch.addcmul(targets, scores, mass / total, value=-1, out=scores)


def target_rows(assignment: Tensor, target_index: Tensor | None, rows: slice, buffer: Tensor | None) -> Tensor:
    """Returns the rows of the assignment for one chunk: a view, or gathered into the buffer."""
    if target_index is None or buffer is None:
        return assignment[rows]
    index = target_index[rows]
    return torch.index_select(assignment, 0, index, out=buffer[: len(index)])


def default_chunk_size(num_prototypes: int, device_type: str = "cpu") -> int:
    """Returns how many rows have scores of the device's `CHUNK_BYTES` in float32; at least 1."""
    return max(1, CHUNK_BYTES.get(device_type, CHUNK_BYTES["cpu"]) // (4 * num_prototypes))


def working_dtype(embeddings: Tensor, prototypes: Tensor) -> torch.dtype:
    """Returns the wider dtype of the two, and at least float32."""
    return torch.promote_types(torch.promote_types(embeddings.dtype, prototypes.dtype), torch.float32)


def check_operands(embeddings: Tensor, prototypes: Tensor) -> None:
    """Raises ValueError unless the shapes are `(N, p)` and `(K, p)` with K >= 1."""
    shapes = tuple(embeddings.shape), tuple(prototypes.shape)
    if embeddings.ndim != 2 or prototypes.ndim != 2 or shapes[0][1] != shapes[1][1] or shapes[1][0] < 1:
        raise ValueError(
            f"embeddings and prototypes must have shapes (N, p) and (K, p) with K >= 1, got {shapes[0]} and {shapes[1]}"
        )


def check_targets(embeddings: Tensor, prototypes: Tensor, assignment: Tensor, target_index: Tensor | None) -> None:
    """Raises ValueError unless the assignment is `(M, K)`, and `target_index` is int64 `(N,)` or M = N."""
    num_rows, num_prototypes = embeddings.shape[0], prototypes.shape[0]
    if assignment.ndim != 2 or assignment.shape[1] != num_prototypes:
        raise ValueError(f"assignment must have shape (M, K) with K = {num_prototypes}, got {tuple(assignment.shape)}")
    if target_index is None:
        if assignment.shape[0] != num_rows:
            raise ValueError(
                f"without target_index the assignment must have one row for each of the {num_rows} embeddings, "
                f"got {assignment.shape[0]} rows: pass target_index"
            )
    elif target_index.shape != (num_rows,) or target_index.dtype != torch.int64:
        raise ValueError(
            f"target_index must be int64 with shape ({num_rows},), one index for each embedding, "
            f"got {target_index.dtype} with shape {tuple(target_index.shape)}"
        )
