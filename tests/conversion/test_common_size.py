"""Tests of `conversion/common_size.py`."""

import torch
from stellar_hub.conversion.common_size import common_size

TENSORS = {"a": torch.empty(3, 5), "b": torch.empty(5), "c": torch.empty(7, 5, 2), "odd": torch.empty(6)}


def test_common_size__reads_the_named_dimension() -> None:
    assert common_size(TENSORS, ("c", 0)) == 7
    assert common_size(TENSORS, ("c", 2)) == 2


def test_common_size__outvotes_the_odd_one_wherever_it_stands() -> None:
    assert common_size(TENSORS, ("odd", 0), ("a", 1), ("b", 0)) == 5
    assert common_size(TENSORS, ("a", 1), ("b", 0), ("odd", 0)) == 5


def test_common_size__takes_the_first_among_equals() -> None:
    assert common_size(TENSORS, ("odd", 0), ("b", 0)) == 6
    assert common_size(TENSORS, ("b", 0), ("odd", 0)) == 5


def test_common_size__passes_over_missing_tensors_and_dimensions() -> None:
    assert common_size(TENSORS, ("nowhere", 0), ("b", 1), ("c", 1)) == 5


def test_common_size__is_one_where_nothing_tells() -> None:
    assert common_size(TENSORS, ("nowhere", 0), ("b", 3)) == 1
