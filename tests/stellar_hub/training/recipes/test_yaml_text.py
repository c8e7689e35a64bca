"""YAML as recipes use it: what is a number, what is text, and what is refused."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stellar_hub.training.recipes.yaml_text import read_yaml, write_yaml

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("5E3", 5e3), ("1.5e-4", 1.5e-4), ("-2e+2", -2e2), (".5e1", 5.0), ("1.e-3", 1e-3), ("0.1", 0.1)],
)
def test_read__takes_numbers_as_people_write_them(text: str, number: float) -> None:
    value = read_yaml(text, "here")
    assert isinstance(value, float)
    assert value == number


@pytest.mark.parametrize("text", ["2024-01-01", "timm:vit_base_patch16_224.mae", "user/name", "1e", "e5", "v1e5"])
def test_read__leaves_text_alone(text: str) -> None:
    assert read_yaml(text, "here") == text


@pytest.mark.parametrize(
    "text", ["1e-4", "1E5", "2024-01-01", "no", "null", "~", "0x10", "1:30", "", " a", "a: b", "=", "#"]
)
def test_write__keeps_text_that_looks_like_something_else(text: str) -> None:
    assert read_yaml(write_yaml({"folder": text, "folders": [text]}), "here") == {"folder": text, "folders": [text]}


@given(VALUES)
@example({"\x85": None})
@example({"\u2028 a\x85": ["\u2029"]})
def test_write_and_read__give_the_value_back(value: Any) -> None:
    assert read_yaml(write_yaml(value), "here") == value


@given(st.floats(allow_nan=False))
def test_write_and_read__keep_floats_to_the_bit(value: float) -> None:
    back = read_yaml(write_yaml(value), "here")
    assert isinstance(back, float)
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


def test_write__keeps_order_and_puts_lists_on_one_line() -> None:
    assert write_yaml({"b": [0.9, 0.95], "a": {}}) == "b: [0.9, 0.95]\na: {}\n"


def test_write__repeats_a_value_used_twice() -> None:
    shared = [1]
    assert write_yaml({"a": shared, "b": shared}) == "a: [1]\nb: [1]\n"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: [1, 2\n", 3, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "character '\\\\t'"),
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' comes twice"),
        ("a: 1\nb: {c: 1, c: 2}\n", 2, "key 'c' comes twice"),
        ("a: 1\nb: *gone\n", 2, "undefined alias"),
        ("a: !!python/object:os.system x\n", 1, "could not determine a constructor"),
        ("[a]: 1\n", 1, "unhashable key"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\nb: \x00\n", 2, "special characters are not allowed"),
    ],
)
def test_read__names_source_and_line_of_what_is_no_yaml(text: str, line: int, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^mine\.yaml, line {line}: not valid YAML: .*{problem}"):
        read_yaml(text, "mine.yaml")
