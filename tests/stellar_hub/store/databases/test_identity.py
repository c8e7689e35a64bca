"""What a collection, a table or a file knows of the features in it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases.identity import check_identity, identity_of
from stellar_hub.store.databases.outgoing import plan_export


def known_of(store: FeatureStore) -> dict[str, Any]:
    return identity_of(plan_export(store, None, "float32", None, to_search=True))


def test_identity__is_plain_json_without_secrets(build_store: Callable[..., FeatureStore]) -> None:
    known = known_of(build_store(model="https://me:secret@host/model?key=abc"))
    assert json.loads(json.dumps(known)) == known
    assert "secret" not in json.dumps(known)
    assert known["vectors"] == {"S": [4, 12], "pooled": [12]}


def test_same_model_and_preprocessing__may_be_mixed(build_store: Callable[..., FeatureStore]) -> None:
    other = build_store("other", count=20)
    known = known_of(build_store()) | {"library": "stellar_hub 99"}
    check_identity("the table a", known, plan_export(other, None, "float32", None, to_search=True))


@pytest.mark.parametrize(
    "damage", [{"model": None}, {"model": {"name": 7}}, {"preprocessing": []}, {"vectors": [1]}, {"dtype": None}]
)
def test_damaged_identity__is_refused(store: FeatureStore, damage: dict[str, Any]) -> None:
    export = plan_export(store, None, "float32", None, to_search=True)
    with pytest.raises(ValueError, match="name another table, or delete this one"):
        check_identity("the table a", known_of(store) | damage, export)
    with pytest.raises(ValueError, match="damaged"):
        check_identity("the table a", [], export)
