"""Meters of collapse: what they measure, and that they stay finite."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.training import StellarPreTrainingOutput
from stellar_hub.training.monitoring.collapse_meters import collapse_meters

sizes = st.integers(1, 5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_assignment_entropy__runs_from_one_prototype_to_all() -> None:
    values = [
        collapse_meters(SimpleNamespace(mean_assignment=torch.tensor(each)))["assignment_entropy"]
        for each in ([1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4)
    ]
    assert values == pytest.approx([0, 0.5, 1], abs=1e-6)


def test_localization_entropy__is_the_mean_over_places() -> None:
    half = torch.cat([torch.eye(4), torch.full((4, 4), 0.25)])[None]
    assert collapse_meters(SimpleNamespace(localization=half))["localization_entropy"] == pytest.approx(0.5, abs=1e-6)


def test_effective_rank__is_of_all_tokens_of_the_batch() -> None:
    tokens = random(2, 3, 16)
    rows = tokens.flatten(0, 1).double()
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0))
    expected = torch.special.entr(singular / singular.sum()).sum().exp().item()
    assert collapse_meters(SimpleNamespace(tokens=tokens))["effective_rank"] == pytest.approx(expected, abs=1e-4)


def test_memory_diversity__counts_different_directions() -> None:
    anchors = torch.eye(8)[torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])]
    for rows, expected in ((anchors, 4), (anchors[:2], 1)):
        assert collapse_meters(SimpleNamespace(anchors=rows))["memory_diversity"] == pytest.approx(expected, abs=1e-4)


def test_meters__of_tokens_that_are_not_finite_are_nan() -> None:
    tokens = random(2, 3, 4)
    tokens[0, 0, 0] = math.inf
    assert all(math.isnan(value) for value in collapse_meters(SimpleNamespace(tokens=tokens)).values())


@given(batch=sizes, num_tokens=sizes, width=sizes, same=st.booleans(), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_collapse_meters__stay_in_their_ranges(batch: int, num_tokens: int, width: int, same: bool, dtype: str) -> None:
    tokens = torch.ones(batch, num_tokens, width) if same else random(batch, num_tokens, width)
    localization = random(batch, 4, num_tokens).softmax(dim=-1)
    output = SimpleNamespace(
        tokens=tokens.to(getattr(torch, dtype)),
        localization=localization.to(getattr(torch, dtype)),
        mean_assignment=random(width).softmax(dim=0),
        agreement=torch.tensor(0.25, dtype=getattr(torch, dtype)),
    )
    meters = collapse_meters(output)
    assert 0 <= meters["assignment_entropy"] <= 1
    assert 0 <= meters["localization_entropy"] <= 1
    assert -1 <= meters["token_cosine"] <= 1
    assert 1 <= meters["effective_rank"] <= max(1, min(batch * num_tokens - 1, width)) + 1e-3
    assert meters["agreement"] == 0.25


def test_collapse_meters__leave_out_what_is_none() -> None:
    assert collapse_meters(StellarPreTrainingOutput()) == {}
    meters = collapse_meters(StellarPreTrainingOutput(tokens=random(2, 3, 4)))
    assert list(meters) == ["token_cosine", "effective_rank"]
    assert all(isinstance(value, float) for value in meters.values())


def test_collapse_meters__take_no_gradient_and_change_nothing() -> None:
    tokens = random(2, 3, 4).requires_grad_()
    before = tokens.detach().clone()
    collapse_meters(SimpleNamespace(tokens=tokens))
    assert tokens.grad is None
    torch.testing.assert_close(tokens.detach(), before, rtol=0, atol=0)
