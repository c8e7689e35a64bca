"""Holding out a part of the training data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.evaluation.held_out import hold_out


@given(labels=st.lists(st.integers(0, 4), min_size=6, max_size=60), share=st.floats(0.05, 0.9), seed=st.integers(0, 50))
def test_parts__are_disjoint_and_together_all(labels: list[int], share: float, seed: int) -> None:
    tensor = torch.tensor(labels)
    fitted, held = hold_out(tensor, share, seed)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        number = labels.count(label)
        count = int((tensor[held] == label).sum())
        assert count == (0 if number == 1 else min(number - 1, max(1, round(share * number))))


def test_parts__are_those_of_the_seed() -> None:
    labels = torch.arange(40) % 4
    assert torch.equal(hold_out(labels, 0.2, 1)[1], hold_out(labels, 0.2, 1)[1])
    assert not torch.equal(hold_out(labels, 0.2, 1)[1], hold_out(labels, 0.2, 2)[1])


def test_classes_of_one__stay_where_they_are_fitted_on() -> None:
    fitted, held = hold_out(torch.tensor([0, 1, 1, 2]), 0.5, 0)
    assert {0, 3} <= set(fitted.tolist())
    assert len(held) == 1
    with pytest.raises(ValueError, match="no class has two training pictures"):
        hold_out(torch.tensor([0, 1, 2]), 0.5, 0)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_share__out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"within \(0, 1\), got"):
        hold_out(torch.zeros(4, dtype=torch.long), share, 0)
