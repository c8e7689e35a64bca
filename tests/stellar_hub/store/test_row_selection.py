"""Which rows a caller means."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.store.row_selection import check_row, is_single, runs_of, select_rows


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ([], []),
        (np.zeros(0), []),
        ([3, 1, 1], [3, 1, 1]),
        (np.array([2, 0], dtype=np.uint8), [2, 0]),
        ([np.int32(2), torch.tensor(1)], [2, 1]),
        (torch.tensor([3]), [3]),
        (range(3, 0, -2), [3, 1]),
        (range(9, 9), []),
        (slice(-2, None), [2, 3]),
        ([True, False, True, False], [0, 2]),
        (np.array([False, False, False, True]), [3]),
        (torch.tensor([True] * 4), [0, 1, 2, 3]),
    ],
)
def test_rows__are_numbers_slices_or_masks(rows: Any, chosen: list[int]) -> None:
    assert list(select_rows(rows, 4)) == chosen


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([True, False], ValueError),
        (torch.ones(5, dtype=torch.bool), ValueError),
        ([True, 2, 0, 1], ValueError),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError),
        (torch.ones(2, 2, dtype=torch.bool), ValueError),
        ([0.0, 1.0], TypeError),
        (torch.tensor([0.5]), TypeError),
        ([2**70], TypeError),
        ("0", TypeError),
        (3, TypeError),
        (["a"], TypeError),
        ({1, 2}, TypeError),
        ({1: 2}, TypeError),
        ([0, 4], IndexError),
        ([-1], IndexError),
        (range(-1, 2), IndexError),
        (range(2, 5), IndexError),
    ],
)
def test_what_is_no_row__is_refused(rows: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="row"):
        select_rows(rows, 4)


@pytest.mark.parametrize(("row", "number"), [(0, 0), (-1, 3), (np.int64(2), 2), (torch.tensor(1), 1)])
def test_row__counts_from_either_end(row: Any, number: int) -> None:
    assert check_row(row, 4) == number
    assert is_single(row)


@pytest.mark.parametrize("row", [True, np.bool_(False), torch.tensor(True), 1.0, "1", None])
def test_row__is_a_whole_number(row: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        check_row(row, 4)


@pytest.mark.parametrize("row", [4, -5, 2**80])
def test_row__exists(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of 4"):
        check_row(row, 4)


@given(st.lists(st.integers(0, 9)))
def test_runs__are_the_rows_again(rows: list[int]) -> None:
    runs = list(runs_of(rows))
    assert [row for run in runs for row in run] == rows
    assert all(run.step == 1 and len(run) for run in runs)
    assert all(one[-1] + 1 != other[0] for one, other in pairwise(runs))
