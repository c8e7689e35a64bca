"""Shape of localization maps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.evaluation.diagnostics.map_shape import map_shape


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
