"""Which rows a caller means: numbers, a range, a slice, or a mask of booleans."""

import operator
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows as callers give them: row numbers, or a mask with a boolean for each row of the store.
Rows = Sequence[int] | Sequence[bool] | slice | Tensor | np.ndarray


def select_rows(rows: Rows | None, num_rows: int) -> Sequence[int]:
    """Returns the numbers of the rows that a caller means.

    Args:
        rows: Numbers of rows from 0 on, a slice, or a mask of booleans with one value for each row of the store; None
            takes all rows.
        num_rows: Number of rows in the store.

    Returns:
        A range or a list of row numbers, each in [0, num_rows).

    Raises:
        IndexError: if a row does not exist. In an array of rows, negative numbers do not count from the end, because
            searches give -1 for a hit that is missing.
        TypeError: if the rows are something else, such as a single number or fractions.
        ValueError: if a mask has another length than the store, or booleans and numbers are mixed.
    """
    if rows is None:
        return range(num_rows)
    if isinstance(rows, slice):
        return range(num_rows)[rows]
    if isinstance(rows, range):
        if len(rows):
            _check_bounds(min(rows[0], rows[-1]), max(rows[0], rows[-1]), num_rows)
        return rows
    values = _as_array(rows)
    if values.dtype == np.bool_:
        if len(values) != num_rows:
            raise ValueError(
                f"a mask of rows must have one boolean for each of the {num_rows} rows, got {len(values)} booleans"
            )
        return np.flatnonzero(values).tolist()
    if len(values):
        _check_bounds(int(values.min()), int(values.max()), num_rows)
    return values.tolist()


def check_row(row: Any, num_rows: int) -> int:
    """Returns the number of one row; a negative number counts from the end.

    Raises:
        IndexError: if the row does not exist.
        TypeError: if it is not a whole number; True and False are none.
    """
    if isinstance(row, bool | np.bool_) or (isinstance(row, Tensor) and (row.dtype == torch.bool or row.ndim)):
        raise TypeError(f"a row must be a whole number, got {row!r}")
    try:
        number = operator.index(row)
    except TypeError:
        raise TypeError(f"a row must be a whole number, got {type(row).__name__}") from None
    if not -num_rows <= number < num_rows:
        raise IndexError(f"row {number} of {num_rows}")
    return number % num_rows


def is_single(rows: Any) -> bool:
    """Whether a caller means one row by its number, rather than several rows."""
    return (not isinstance(rows, slice) and not hasattr(rows, "__len__")) or getattr(rows, "ndim", 1) == 0


def runs_of(rows: Sequence[int]) -> Iterator[range]:
    """Yields rows as ranges of step 1, as long as possible, in the order given."""
    if isinstance(rows, range) and rows.step == 1:
        if rows:
            yield rows
        return
    if not len(rows):
        return
    numbers = np.asarray(rows, dtype=np.int64)
    ends = [*(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
    start = 0
    for end in ends:
        yield range(int(numbers[start]), int(numbers[end - 1]) + 1)
        start = end


def _as_array(rows: Any) -> np.ndarray:
    """Returns rows as a vector of integers or booleans."""
    if isinstance(rows, Tensor):
        values = rows.detach().cpu().numpy()
    elif isinstance(rows, str | bytes | Set | Mapping) or not hasattr(rows, "__len__"):
        is_row = isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0
        hint = f": for one row pass [{rows}]" if is_row else ""
        kind = type(rows).__name__
        raise TypeError(f"rows must be a sequence of row numbers or a mask of booleans, got {kind}{hint}")
    else:
        values = np.asarray(rows) if len(rows) else np.zeros(0, dtype=np.int64)
        if not isinstance(rows, np.ndarray) and _has_booleans(rows) and values.dtype != np.bool_:
            raise ValueError("rows must be numbers or booleans, not both")
    if values.ndim != 1:
        raise ValueError(f"rows must have one dimension, got the shape {values.shape}: take the rows of one query")
    if not len(values):
        return np.zeros(0, dtype=np.int64) if values.dtype != np.bool_ else values
    if values.dtype != np.bool_ and not np.issubdtype(values.dtype, np.integer):
        found = "text; one name reads a feature, as in store['pooled']" if values.dtype.kind in "US" else values.dtype
        raise TypeError(f"rows must be whole numbers or booleans, got {found}")
    return values


def _has_booleans(rows: Any) -> bool:
    return any(isinstance(row, bool | np.bool_) for row in rows)


def _check_bounds(smallest: int, largest: int, num_rows: int) -> None:
    if smallest < 0 or largest >= num_rows:
        row = smallest if smallest < 0 else largest
        hint = "; rows count from 0, and -1 stands for a hit that is missing" if smallest < 0 else ""
        raise IndexError(f"row {row} of {num_rows}{hint}")
