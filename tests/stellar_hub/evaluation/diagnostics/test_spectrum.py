"""Singular values and effective rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.evaluation.diagnostics.spectrum import effective_rank, singular_values


@given(seed=st.integers(0, 100), number=st.integers(2, 12), width=st.integers(1, 12))
def test_rank__is_the_formula_by_numpys_decomposition(seed: int, number: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, width)) + 3
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    found = singular_values(torch.from_numpy(rows))
    torch.testing.assert_close(found, torch.from_numpy(values), rtol=1e-6, atol=1e-6)
    assert effective_rank(torch.from_numpy(rows)).item() == pytest.approx(expected, abs=1e-5)


def test_rank__is_of_each_picture_where_there_are_several() -> None:
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    found = effective_rank(tokens)
    expected = torch.stack([effective_rank(each) for each in tokens])
    torch.testing.assert_close(found, expected)


def test_rank__of_collapsed_features_is_1() -> None:
    assert effective_rank(torch.full((10, 4), 7.3)).item() == 1
    assert effective_rank(torch.zeros(10, 4)).item() == 1
    line = torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-5)


def test_rank__of_even_directions_is_their_number() -> None:
    rows = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(rows).item() == pytest.approx(5)
