"""Shape of localization maps."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.measures.tokens import map_shape, token_stability


@given(seed=st.integers(0, 100), places=st.integers(1, 9), tokens=st.integers(2, 5))
def test_shape__is_the_formula_one_map_at_a_time(seed: int, places: int, tokens: int) -> None:
    maps = (3 * torch.randn(2, places, tokens, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)
    rows = [-sum(float(x) * math.log(x) for x in row) for each in maps.double() for row in each]
    areas, owning = [], []
    for each in maps.double():
        owners = {int(row.argmax()) for row in each}
        owning.append(len(owners) / tokens)
        for token in range(tokens):
            shares = (each[:, token] / each[:, token].sum()).tolist()
            areas.append(math.exp(-sum(x * math.log(x) for x in shares)) / places)
    found = map_shape(maps)
    assert found.sharpness == pytest.approx(1 - sum(rows) / len(rows) / math.log(tokens), abs=1e-6)
    assert found.area == pytest.approx(sum(areas) / len(areas), abs=1e-6)
    assert found.owning == pytest.approx(sum(owning) / len(owning))


def test_ends_of_the_ranges__are_reached() -> None:
    shared_out = torch.eye(4)[None]  # each place its own token
    assert map_shape(shared_out) == pytest.approx((1.0, 1 / 4, 1.0))
    blank = torch.full((1, 6, 3), 1 / 3)
    assert map_shape(blank) == pytest.approx((0.0, 1.0, 1 / 3), abs=1e-6)
    assert map_shape(torch.ones(1, 6, 1)) == pytest.approx((1.0, 1.0, 1.0))


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
