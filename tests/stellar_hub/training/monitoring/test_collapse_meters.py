"""Meters of collapse: their ends, values by hand, and that they stay finite."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.training.model.output import StellarPreTrainingOutput
from stellar_hub.training.monitoring.collapse_meters import (
    assignment_entropy,
    collapse_meters,
    effective_rank,
    localization_entropy,
    token_cosine,
)

sizes = st.integers(1, 5)


def assert_value(meter: Tensor, expected: float, atol: float = 1e-5) -> None:
    assert meter.dtype == torch.float32
    torch.testing.assert_close(meter, torch.tensor(float(expected)), rtol=1e-5, atol=atol)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [([0.25] * 4, 1.0), ([1.0, 0, 0, 0], 0.0), ([0.5, 0.5, 0, 0], 0.5), ([0.0] * 4, 0.0), ([1.0], 0.0)],
)
def test_assignment_entropy__runs_from_one_prototype_to_all(assignment: list[float], expected: float) -> None:
    assert_value(assignment_entropy(torch.tensor(assignment)), expected)


def test_assignment_entropy__does_not_depend_on_the_scale() -> None:
    assignment = torch.rand(9, generator=torch.Generator().manual_seed(0))
    assert_value(assignment_entropy(assignment * 7), float(assignment_entropy(assignment)))


def test_token_cosine__agrees_with_a_loop_over_pairs() -> None:
    tokens = random(3, 4, 6)
    pairs = [
        torch.nn.functional.cosine_similarity(image[i], image[j], dim=0)
        for image in tokens
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    assert_value(token_cosine(tokens), float(torch.stack(pairs).mean()))


def test_token_cosine__of_orthogonal_opposite_and_identical_tokens() -> None:
    assert_value(token_cosine(3 * torch.eye(4)[None]), 0)
    assert_value(token_cosine(torch.tensor([[[1.0, 2], [-2, -4]]])), -1)
    assert_value(token_cosine(torch.tensor([[[1.0, 2], [2, 4]]])), 1)


def test_token_cosine__of_one_token_is_zero() -> None:
    assert_value(token_cosine(random(3, 1, 6)), 0)


def test_effective_rank__counts_directions_used_alike() -> None:
    directions = torch.eye(6)[:3]
    tokens = torch.cat([directions, -directions])[None]  # mean 0, three equal singular values
    assert_value(effective_rank(tokens), 3)


@pytest.mark.parametrize("shape", [(2, 3, 16), (5, 4, 3)])
def test_effective_rank__agrees_with_the_singular_values_of_the_long_matrix(shape: tuple[int, int, int]) -> None:
    tokens = random(*shape)
    rows = tokens.flatten(0, 1).double()
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = singular / singular.sum()
    assert_value(effective_rank(tokens), math.exp(float(torch.special.entr(shares).sum())), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 5, 4), (3, 2, 4)])
def test_effective_rank__of_identical_tokens_is_one(shape: tuple[int, int, int]) -> None:
    assert_value(effective_rank((random(4) * 1000).expand(shape)), 1)


def test_effective_rank__of_tokens_on_a_line_is_one() -> None:
    assert_value(effective_rank(random(2, 4, 1) * random(1, 1, 8, seed=1)), 1, atol=1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_effective_rank__of_values_that_are_not_finite_is_nan(value: float) -> None:
    tokens = random(2, 3, 4)
    tokens[0, 0, 0] = value
    assert effective_rank(tokens).isnan()


def test_localization_entropy__runs_from_one_token_to_all() -> None:
    assert_value(localization_entropy(torch.eye(4)[None]), 0)
    assert_value(localization_entropy(torch.full((2, 9, 4), 0.25)), 1)
    half = torch.cat([torch.eye(4), torch.full((4, 4), 0.25)])[None]
    assert_value(localization_entropy(half), 0.5)


def test_localization_entropy__of_one_token_is_zero() -> None:
    assert_value(localization_entropy(torch.ones(2, 9, 1)), 0)


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
    assert not token_cosine(tokens).requires_grad
    torch.testing.assert_close(tokens.detach(), before, rtol=0, atol=0)
