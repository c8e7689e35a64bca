"""Errors about names: what they suggest."""

import pytest

from stellar_hub.training.recipes.checks import did_you_mean, refuse_unknown, require


def test_require__says_key_value_and_what_is_allowed() -> None:
    require(True, "a.b", 3, "at least 1")
    with pytest.raises(ValueError, match=r"^a\.b must be at least 1, got 'x'$"):
        require(False, "a.b", "x", "at least 1")


def test_did_you_mean__suggests_close_names_only() -> None:
    assert did_you_mean("steps_", ["epochs", "steps"]) == "; did you mean 'steps'?"
    assert did_you_mean("zzz", ["epochs", "steps"]) == ""


def test_refuse_unknown__lists_all_where_none_is_close() -> None:
    refuse_unknown(["a"], ["a", "b"], "x.")
    with pytest.raises(ValueError, match=r"^unknown key x\.7; known: a, b$"):
        refuse_unknown([7], ["a", "b"], "x.")
