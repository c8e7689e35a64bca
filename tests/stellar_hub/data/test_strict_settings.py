"""Frozen dataclasses that are strict: what they convert, and what they refuse."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from huggingface_hub.dataclasses import strict

from stellar_hub.data.strict_settings import check_probability, check_value, fit_fields, shown


@strict
@dataclass(frozen=True)
class Settings:
    """One field of each kind that settings have."""

    count: int = 1
    share: float = 0.5
    limit: float | None = None
    on: bool = True
    name: str = "a"
    area: tuple[float, float] = (0.1, 1.0)
    paths: tuple[str, ...] = ()
    kind: Literal["x", "y"] = "x"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        fit_fields(self)


def test_fit__makes_lists_tuples_and_ints_floats() -> None:
    settings = Settings(share=1, limit=2, area=[1, 1], paths=["a", "b"])  # type: ignore[arg-type]
    assert repr((settings.share, settings.limit, settings.area)) == "(1.0, 2.0, (1.0, 1.0))"
    assert settings.paths == ("a", "b")


def test_fit__copies_dictionaries() -> None:
    options = {"a": 1}
    settings = Settings(options=options)
    options["a"] = 2
    assert settings.options == {"a": 1}


def test_settings__cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().count = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("count", 2.0, "whole number"),
        ("count", True, "whole number"),
        ("count", None, "whole number"),
        ("share", "1e-4", "number"),
        ("share", False, "number"),
        ("limit", "x", "number, or null"),
        ("on", 1, "true or false"),
        ("name", False, "string"),
        ("area", [0.5], "list of 2"),
        ("area", [0.1, "x"], "number"),
        ("paths", "images", "list"),
        ("paths", [3], "string"),
        ("kind", "z", "x, y"),
        ("kind", ["x"], "x, y"),
        ("options", [1], "mapping"),
        ("share", float("nan"), "finite"),
        ("limit", float("inf"), "finite"),
        ("area", [0.1, float("inf")], "finite"),
        ("share", 10**400, "finite"),
    ],
)
def test_fit__names_field_value_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*{allowed}") as caught:
        Settings(**{key: value})
    assert shown(value) in str(caught.value)


def test_require__says_key_value_and_what_is_allowed() -> None:
    check_value(True, "a.b", 3, "at least 1")
    with pytest.raises(ValueError, match=r"^a\.b must be at least 1, got 'x'$"):
        check_value(False, "a.b", "x", "at least 1")


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_require_probability__refuses_what_is_outside(value: float) -> None:
    check_probability("p", 0.5)
    with pytest.raises(ValueError, match=rf"^p must .*{value}"):
        check_probability("p", value)


@pytest.mark.parametrize("key", ["count", "numbers"])
def test_whole_numbers__have_at_most_64_bits(key: str) -> None:
    @strict
    @dataclass(frozen=True)
    class Numbers:
        count: int = 1
        numbers: tuple[int, ...] = ()

        def __post_init__(self) -> None:
            fit_fields(self)

    given: Any = {"count": 2**63, "numbers": [1, -(2**70)]}
    with pytest.raises(ValueError, match=rf"^{key} must be a whole number of at most 64 bits, got "):
        Numbers(**{key: given[key]})
    assert Numbers(count=2**63 - 1).count == 2**63 - 1


class TestShown:
    def test_value__is_cut_and_on_one_line(self) -> None:
        assert len(shown("x" * 5000)) <= 200
        assert shown("a\x1b[31m\nb").isprintable()

    def test_password__is_not_shown(self) -> None:
        with pytest.raises(ValueError, match=r"\*\*\*@host/a\.tar") as caught:
            check_value(False, "sources", ["https://me:secret@host/a.tar?signature=secret"], "paths")
        assert "secret" not in str(caught.value)

    def test_number__of_more_digits_than_python_writes_is_described(self) -> None:
        assert shown(10**5000) == "a number of more than 4300 digits"
