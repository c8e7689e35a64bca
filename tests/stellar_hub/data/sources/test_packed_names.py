import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources.packed_names import PackedNames


@given(st.lists(st.binary(max_size=8).map(os.fsdecode)))
def test_names__come_back_whatever_their_bytes(names: list[str]) -> None:
    packed = PackedNames.pack(names)
    assert len(packed) == len(names)
    assert list(packed) == [packed[index] for index in range(len(packed))] == names


@pytest.mark.parametrize("index", [-1, 2])
def test_getitem__refuses_what_lies_outside(index: int) -> None:
    with pytest.raises(IndexError, match=f"name {index} of 2"):
        PackedNames.pack(["a", "b"])[index]
