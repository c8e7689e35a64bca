"""Classes in a configuration: what follows from what, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.labels import resolve_labels

NAMES = {0: "cat", 1: "dog", 2: "bird"}
NUMBERS = {"cat": 0, "dog": 1, "bird": 2}


@given(names=st.lists(st.text(min_size=1).filter(str.strip), unique=True, max_size=8))
def test_names_and_numbers__follow_from_each_other(names: list[str]) -> None:
    by_number = dict(enumerate(names))
    found = resolve_labels(None, by_number, None)
    assert found == (by_number, {name: number for number, name in by_number.items()})
    if names:
        assert resolve_labels(len(names), None, found[1]) == found


def test_number_alone__gives_the_names_of_transformers() -> None:
    assert resolve_labels(2, None, None) == ({0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1})
    assert resolve_labels(None, None, None) == (None, None)


def test_numbers_that_transformers_left__are_made_anew() -> None:
    assert resolve_labels(None, NAMES, {"LABEL_0": 0, "LABEL_1": 1}) == (NAMES, NUMBERS)


def test_two_classes__may_have_one_name() -> None:
    names, numbers = resolve_labels(None, {"1": "crane", "0": "crane"}, None)
    assert (names, numbers) == ({0: "crane", 1: "crane"}, {"crane": 0})
    assert resolve_labels(None, names, {"crane": 1})[1] == {"crane": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 10**12}, "STELLAR_HUB_MAX_CONFIG_DIMENSION"),
        ({"num_labels": -1}, "got -1"),
        ({"num_labels": "3"}, "whole number"),
        ({"num_labels": True}, "whole number"),
        ({"num_labels": 2, "id2label": NAMES}, "there are 3 names"),
        ({"id2label": {0: "cat", 2: "dog"}}, "0 to 1"),
        ({"id2label": {"zero": "cat"}}, "zero"),
        ({"id2label": {0: " "}}, "class 0"),
        ({"id2label": {0: "x" * 1001}}, "class 0"),
        ({"id2label": NAMES, "label2id": {**NUMBERS, "cat": 1}}, "'cat'"),
        ({"id2label": NAMES, "label2id": {"cat": 0}}, "'bird'"),
        ({"label2id": {"cat": 0, "dog": 0}}, "same number"),
        ({"label2id": {"cat": "x"}}, "whole number"),
    ],
)
def test_what_does_not_fit__is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    for build in (
        lambda: StellarConfig(**fields),
        lambda: StellarConfig.from_dict({"model_type": "stellar", **fields}),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_keywords__replace_the_classes_of_a_file() -> None:
    file = {"model_type": "stellar", "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    assert StellarConfig.from_dict(dict(file), num_labels=3).id2label == {0: "a", 1: "b", 2: "c"}
    assert StellarConfig.from_dict(dict(file), num_labels=2).label2id == {"LABEL_0": 0, "LABEL_1": 1}
    assert StellarConfig.from_dict(dict(file), id2label=NAMES).label2id == NUMBERS


def test_saved_configuration__has_the_classes(tmp_path: Any) -> None:
    config = StellarConfig(id2label=NAMES, classifier_pooling="both", classifier_dropout=0.1)
    config.save_pretrained(tmp_path)
    again = StellarConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert (again.num_labels, again.id2label, again.label2id) == (3, NAMES, NUMBERS)


def test_other_models__do_not_save_the_fields_of_classifiers() -> None:
    fields = StellarConfig().to_diff_dict()
    assert not {"classifier_pooling", "classifier_dropout", "id2label", "label2id"} & fields.keys()


def test_dropout__is_in_its_range() -> None:
    with pytest.raises(ValueError, match="classifier_dropout"):
        StellarConfig(classifier_dropout=1.0)
