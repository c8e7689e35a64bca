import json
from importlib import resources

import pytest

from stellar_hub.old_names import did_you_mean, hint_of_new_name, old_names

KINDS = list(json.loads((resources.files("stellar_hub") / "old_names.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", KINDS)
def test_names__are_renamed_once(kind: str) -> None:
    names = old_names(kind)
    assert names
    assert not names.keys() & names.values()  # no new name is an old one


def test_old_name__is_hinted_with_the_new_one() -> None:
    assert hint_of_new_name("features", "S-mean") == "; 'S-mean' is now called 'pooled'"


@pytest.mark.parametrize("name", ["pooled", "nothing"])
def test_other_names__have_no_hint(name: str) -> None:
    assert hint_of_new_name("features", name) == ""


def test_unknown_kind__is_an_error() -> None:
    with pytest.raises(KeyError, match="colours"):
        old_names("colours")


def test_did_you_mean__suggests_close_names_only() -> None:
    assert did_you_mean("steps_", ["epochs", "steps"]) == "; did you mean 'steps'?"
    assert did_you_mean("zzz", ["epochs", "steps"]) == ""


def test_did_you_mean__suggests_the_same_name_alone() -> None:
    assert did_you_mean("Stellar_tiny", ["stellar-b8", "stellar-tiny"]) == "; did you mean 'stellar-tiny'?"
