"""Hashes of weights."""

import torch
from torch import nn

from stellar_hub.evaluation.backbones.weights_hash import weights_hash


def test_hash__changes_with_a_value_a_name_and_a_type() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    known = weights_hash(network)
    assert weights_hash(network) == known
    assert weights_hash(nn.ModuleDict({"a": network})) != known
    network[0].weight.data[0, 0] += 1e-6
    changed = weights_hash(network)
    assert changed != known
    network[1].running_mean += 1  # type: ignore[operator]
    assert weights_hash(network) != changed
    assert len({weights_hash(nn.Linear(1, 1).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}) == 2
