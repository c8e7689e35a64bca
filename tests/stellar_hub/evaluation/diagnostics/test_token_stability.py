"""Stability of tokens between views."""

import itertools

import pytest
import torch
from torch import Tensor

from stellar_hub.evaluation.diagnostics.token_stability import token_stability


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_stability__does_not_depend_on_the_order_of_tokens() -> None:
    first = 4 * torch.eye(5, 8)[None] + 0.1 * draw(3, 5, 8)
    order = torch.tensor([3, 0, 2, 4, 1])
    same, shuffled = token_stability(first, first), token_stability(first, first[:, order])
    assert same.matched == pytest.approx(1, abs=1e-6)
    assert shuffled.matched == pytest.approx(1, abs=1e-6)
    assert same.same_index == 1
    assert shuffled.same_index == pytest.approx(1 / 5)  # token 2 stays in its place
    assert shuffled.unmatched == pytest.approx(same.unmatched, abs=1e-6)


def test_stability__is_the_mean_of_cosines_one_by_one() -> None:
    first = 5 * torch.eye(3, 4)[None] + draw(2, 3, 4)
    second = first + 0.05 * draw(2, 3, 4, seed=1)  # so near that the identity is the matching
    cosines = {
        (b, i, j): float(torch.cosine_similarity(first[b, i].double(), second[b, j].double(), dim=0))
        for b, i, j in itertools.product(range(2), range(3), range(3))
    }
    found = token_stability(first, second)
    assert found.matched == pytest.approx(sum(c for (_, i, j), c in cosines.items() if i == j) / 6, abs=1e-6)
    assert found.unmatched == pytest.approx(sum(c for (_, i, j), c in cosines.items() if i != j) / 12, abs=1e-6)


def test_stability__of_one_token_has_no_other_pairs() -> None:
    found = token_stability(draw(2, 1, 4), draw(2, 1, 4))
    assert found == pytest.approx((1.0, 0.0, 1.0))
