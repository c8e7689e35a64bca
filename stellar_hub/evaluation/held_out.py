"""A part of the training data that choices are made on, so that none is made on test."""

import torch
from torch import Tensor


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split training samples in two, class by class.

    Args:
        labels: `(N,)` integers from 0.
        share: Of each class to hold out, in (0, 1); rounded, and at least one sample of each class that has two.
        seed: Of the choice.

    Returns:
        Indices to fit on and indices held out, both sorted int64: disjoint, and together all. A class of one sample
        stays among the first.

    Raises:
        ValueError: if the share is out of range, or no class has two samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be within (0, 1), got {share}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held = []
    for label in labels.unique():
        members = order[labels[order] == label]
        if len(members) > 1:
            count = min(len(members) - 1, max(1, round(share * len(members))))
            held.append(members[:count])
    if not held:
        raise ValueError(
            "no class has two training pictures, so that nothing can be held out to choose on: add pictures"
        )
    chosen = torch.cat(held).sort().values
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[chosen] = True
    return (~is_held).nonzero().flatten(), chosen
