"""Sharing work among processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.evaluation.processes import Processes


@given(total=st.integers(0, 100), count=st.integers(1, 9))
def test_shares__are_disjoint_together_all_and_about_equal(total: int, count: int) -> None:
    shares = [Processes(index, count).share(total) for index in range(count)]
    assert [item for share in shares for item in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process__gathers_its_own() -> None:
    alone = Processes()
    rows = torch.rand(3, 2)
    assert alone.gather([1, 2]) == [1, 2]
    assert torch.equal(alone.gather_rows(rows), rows)
    assert alone.is_main
    alone.raise_together(None)
    with pytest.raises(KeyError):
        alone.raise_together(KeyError("mine"))


def test_launched__without_a_launcher_is_one_on_the_device_named() -> None:
    launched = Processes.launched("cpu")
    assert (launched.index, launched.count, launched.device) == (0, 1, "cpu")
