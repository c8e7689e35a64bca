"""How edits are written on the command line."""

from pathlib import Path

import pytest

from stellar_hub.cli.edit_words import FORMS, Edit, Spot, parse_edit
from stellar_hub.cli.errors import UsageError


@pytest.mark.parametrize(
    ("option", "text", "parts"),
    [
        ("--drop", "3", {"tokens": (3,)}),
        ("--drop", "3,7,11", {"tokens": (3, 7, 11)}),
        ("--keep", "@40,60.5", {"tokens": (Spot(40, 60.5),)}),
        ("--swap", "2:9", {"tokens": (2, 9)}),
        ("--swap", "@1,2:@3,4", {"tokens": (Spot(1, 2), Spot(3, 4))}),
        ("--move", "5:+40,-12", {"tokens": (5,), "numbers": (40, -12)}),
        ("--move", "@30,40:0,2.5", {"tokens": (Spot(30, 40),), "numbers": (0, 2.5)}),
        ("--scale", "5:1.5", {"tokens": (5,), "numbers": (1.5,)}),
        ("--mirror", "5", {"tokens": (5,), "axis": "horizontal"}),
        ("--mirror", "5:vertical", {"tokens": (5,), "axis": "vertical"}),
        ("--paint", "5:0,0,64,32", {"tokens": (5,), "numbers": (0, 0, 64, 32)}),
        ("--paint", "5:-8,0,64,32,0.5", {"tokens": (5,), "numbers": (-8, 0, 64, 32, 0.5)}),
        ("--from", "other.jpg:7@120,80", {"file": Path("other.jpg"), "other": 7, "spot": Spot(120, 80)}),
        ("--from", "other.jpg:7", {"file": Path("other.jpg"), "other": 7, "spot": None}),
        ("--from", "a:b@1,2.jpg:@3,4@5,6", {"file": Path("a:b@1,2.jpg"), "other": Spot(3, 4), "spot": Spot(5, 6)}),
        ("--replace", "5:other.jpg:7", {"tokens": (5,), "file": Path("other.jpg"), "other": 7}),
        ("--blend", "other.jpg", {"file": Path("other.jpg"), "numbers": ()}),
        ("--blend", "c:/other.jpg:0.3", {"file": Path("c:/other.jpg"), "numbers": (0.3,)}),
        ("--interpolate", "other.jpg:1", {"file": Path("other.jpg"), "numbers": (1,)}),
    ],
)
def test_edit__is_read_as_written(option: str, text: str, parts: dict[str, object]) -> None:
    assert parse_edit(option, text) == Edit(option, text, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", FORMS)
def test_example_of_an_error__is_right(option: str) -> None:
    assert parse_edit(option, FORMS[option].example.split(" or ")[0]).option == option


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--drop", ""),
        ("--drop", "-1"),
        ("--drop", "3.5"),
        ("--drop", "3,"),
        ("--drop", "True"),
        ("--drop", "nan"),
        ("--drop", "٣"),
        ("--drop", "9" * 5000),
        ("--swap", "2"),
        ("--move", "5:40"),
        ("--move", "5:nan,1"),
        ("--move", "5:1e9,1"),
        ("--move", f"5:{'9' * 400},0"),
        ("--scale", "5:inf"),
        ("--scale", "5:"),
        ("--mirror", "5:diagonal"),
        ("--paint", "5:0,0,64"),
        ("--from", "other.jpg"),
        ("--from", ":7"),
        ("--from", "other.jpg:x"),
        ("--replace", "other.jpg:7"),
        ("--blend", ""),
    ],
)
def test_another_form__is_refused_with_an_example(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be written .* such as {option} "):
        parse_edit(option, text)
