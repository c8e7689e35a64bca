"""Alignment and uniformity."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.measures.alignment_uniformity import alignment, uniformity


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(seed=st.integers(0, 100), number=st.integers(2, 9), alpha=st.sampled_from([1.0, 2.0]), t=st.floats(0.5, 4))
def test_measures__are_the_formulas(seed: int, number: int, alpha: float, t: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(number, 4)), rng.normal(size=(number, 4))
    expected = np.mean([np.linalg.norm(a - b) ** alpha for a, b in zip(unit(x), unit(y), strict=True)])
    assert alignment(torch.from_numpy(x), torch.from_numpy(y), alpha) == pytest.approx(expected, abs=1e-9)
    kernel = [
        math.exp(-t * float(np.square(a - b).sum()))
        for i, a in enumerate(unit(x))
        for j, b in enumerate(unit(x))
        if i != j
    ]
    assert uniformity(torch.from_numpy(x), t) == pytest.approx(math.log(np.mean(kernel)), abs=1e-9)


def test_uniformity__does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    together = uniformity(rows)
    monkeypatch.setattr("stellar_hub.measures.alignment_uniformity.ROWS_AT_A_TIME", 7)
    assert uniformity(rows) == pytest.approx(together, abs=1e-12)


def test_ends_of_the_ranges__are_reached() -> None:
    same, opposite = torch.ones(4, 3), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert alignment(same, 5 * same) == pytest.approx(0, abs=1e-12)
    assert alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0, abs=1e-9)
    assert uniformity(opposite) == pytest.approx(-8)
    with pytest.raises(ValueError, match="at least 2 rows are needed, got 1"):
        uniformity(torch.ones(1, 3))
