"""What a step of SOP compares embeddings with: anchors drawn anew from a memory, and their supports."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stellar_hub.training.objectives.sop import check_task, sop_supports

LowEnergy = Literal["uniform", "variation"]
EPS = 1e-6


class SopTask(NamedTuple):
    """One task: what embeddings are compared with.

    Attributes:
        supports: Embeddings of the supports, `(A k, p)`.
        scores: Label of each support for its own anchor, in [0, 1], `(A, k)`.
    """

    supports: Tensor
    scores: Tensor


def draw_sop_task(
    memory: Tensor,
    num_anchors: int,
    num_supports: int,
    smoothing: float = 0.1,
    *,
    low_energy: LowEnergy | None = None,
    generator: torch.Generator | None = None,
) -> SopTask:
    """Draws anchors, and finds their supports. Processes with equal memories and generators get the same task.

    Args:
        memory: Unit vectors, `(K, p)`.
        num_anchors: Number of anchors to draw.
        num_supports: Number `k` of supports of each anchor, the anchor included.
        smoothing: The anchor's own score is 1 minus this number.
        low_energy: How to draw the half of the anchors that stays: None keeps all; see `draw_low_energy`.
        generator: Source of the random numbers; None uses torch's global one of the CPU.

    Raises:
        ValueError: as `sop_supports`.
    """
    check_task(memory.shape[0], num_anchors, num_supports)
    anchors = draw_anchors(memory.shape[0], num_anchors, generator=generator, device=memory.device)
    rows, scores = sop_supports(memory, anchors, num_supports, smoothing)
    if low_energy is not None:
        kept = draw_low_energy(scores, low_energy, generator=generator)
        rows, scores = rows.view(num_anchors, num_supports)[kept].flatten(), scores[kept]
    return SopTask(memory.detach()[rows], scores)


def draw_anchors(
    num_rows: int,
    num_anchors: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draws distinct rows of a memory, int64 `(num_anchors,)`, on the generator's device; moves them to `device`."""
    check_task(num_rows, num_anchors, 1)
    source = "cpu" if generator is None else generator.device
    return torch.randperm(num_rows, generator=generator, device=source)[:num_anchors].to(device, non_blocking=True)


def draw_low_energy(scores: Tensor, rule: LowEnergy = "uniform", *, generator: torch.Generator | None = None) -> Tensor:
    """Draws the half of the anchors that stays, without replacement; of one anchor, that one.

    Args:
        scores: Scores of the supports, the anchor's last, `(A, k)`.
        rule: "uniform" draws all anchors with equal probability, as the authors' code does. "variation" weighs an
            anchor by 1 / coefficient of variation of its neighbours' scores, as their paper says.
        generator: Source of the random numbers; None uses torch's global one of the CPU.

    Returns:
        Indices of anchors, int64 `(max(A // 2, 1),)`.

    Raises:
        ValueError: if the rule is unknown.
    """
    if rule not in ("uniform", "variation"):
        raise ValueError(f"rule must be 'uniform' or 'variation', got {rule!r}")
    source = "cpu" if generator is None else generator.device
    # The largest of weight / Exp(1) are a weighted draw without replacement; torch.multinomial waits for the device.
    noise = torch.empty(scores.shape[0], dtype=torch.float32, device=source).exponential_(generator=generator)
    keys = 1 / noise.to(scores.device, non_blocking=True)
    if rule == "variation" and scores.shape[1] > 1:
        deviation, mean = torch.std_mean(scores[:, :-1], dim=1, correction=0)
        keys = keys * mean.clamp_min(EPS) / deviation.clamp_min(EPS)
    return keys.topk(max(scores.shape[0] // 2, 1)).indices
