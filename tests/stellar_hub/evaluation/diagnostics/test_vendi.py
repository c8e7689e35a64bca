"""The Vendi score."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.evaluation.diagnostics.vendi import vendi_score


@given(seed=st.integers(0, 100), number=st.integers(1, 12), width=st.integers(1, 12))
def test_score__is_the_entropy_of_the_whole_kernel(seed: int, number: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, width))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / number)
    values = values[values > 1e-12]
    assert vendi_score(torch.from_numpy(rows)).item() == pytest.approx(
        np.exp(-(values * np.log(values)).sum()), abs=1e-6
    )


def test_score__counts_what_differs() -> None:
    different = torch.eye(6)[:4]
    assert vendi_score(different).item() == pytest.approx(4)
    assert vendi_score(different.repeat(3, 1)).item() == pytest.approx(4)
    assert vendi_score(torch.ones(7, 3)).item() == pytest.approx(1)


def test_score__is_of_each_picture_where_there_are_several() -> None:
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vendi_score(tokens), torch.stack([vendi_score(each) for each in tokens]))
