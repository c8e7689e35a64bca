"""What differs between two recipes, and which differences a resumed run refuses."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.training.recipes.differences import MAY_CHANGE, differences, refuse_other_recipe
from stellar_hub.training.recipes.files import load_recipe, to_dict

TINY = load_recipe("stellar-tiny")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
MAPPINGS = st.dictionaries(st.text(), SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS))


def test_differences__are_lines_with_both_values() -> None:
    old = {"optimization": {"learning_rate": 0.001, "betas": [0.9, 0.95]}, "run": {"license": None}}
    new = {"optimization": {"learning_rate": 0.002, "betas": [0.9, 0.999]}, "run": {"license": "mit"}}
    assert differences(old, new) == [
        "optimization.learning_rate: 0.001 in the run, 0.002 now",
        "optimization.betas: [0.9, 0.95] in the run, [0.9, 0.999] now",
        'run.license: null in the run, "mit" now',
    ]


def test_differences__tell_what_only_one_has() -> None:
    assert differences({"a": {"x": 1}}, {"a": {"y": True}}) == [
        "a.x: 1 in the run, not set now",
        "a.y: not set in the run, true now",
    ]
    assert differences({"a": 1}, {"a": {"x": 1}}) == ['a: 1 in the run, {"x": 1} now']


@pytest.mark.parametrize(("old", "new"), [(1, 1.0), ((1, 2), [1, 2.0]), (float("nan"), float("nan")), (1e-4, 0.0001)])
def test_differences__do_not_mind_how_a_value_is_stored(old: Any, new: Any) -> None:
    assert differences({"a": old}, {"a": new}) == []


@pytest.mark.parametrize(("old", "new"), [(1, True), ([0], [False]), ("1", 1), (None, 0), ([1], [1, 2])])
def test_differences__tell_types_apart_that_mean_something_else(old: Any, new: Any) -> None:
    assert len(differences({"a": old}, {"a": new})) == 1


@given(MAPPINGS)
def test_differences__of_the_same_are_none(values: dict[str, Any]) -> None:
    assert differences(values, copy.deepcopy(values)) == []


@given(MAPPINGS, MAPPINGS)
def test_differences__are_as_many_both_ways(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert len(differences(old, new)) == len(differences(new, old))


def test_refuse__lets_the_same_recipe_go_on() -> None:
    refuse_other_recipe(TINY, load_recipe("stellar-tiny"))


def test_refuse__lets_change_what_does_not_change_the_result() -> None:
    overrides = ["log_every=7", "save_every=7", "keep_checkpoints=7", "preview_every=7", "export_every=7"]
    overrides += ["trackers=[tensorboard]", "push_to_hub=a/b", "license=mit", "num_workers=7", "sources=[elsewhere]"]
    overrides += ["data.root=elsewhere", "run.compile=true", "run.cuda_graphs=true"]
    overrides += ["probe_every=7", "data.probe=elsewhere"]
    new = load_recipe("stellar-tiny", ["data.repeats=[]", *overrides])
    assert len(overrides) == len(MAY_CHANGE)
    refuse_other_recipe(load_recipe("stellar-tiny", ["data.repeats=[]"]), new)


def test_may_change__holds_keys_that_exist() -> None:
    values = to_dict(TINY)
    for key in MAY_CHANGE:
        section, name = key.split(".")
        assert name in values[section]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("learning_rate=2e-3", "optimization.learning_rate: 0.001 in the run, 0.002 now"),
        ("mask_ratio=null", "model.config.mask_ratio: 0.6 in the run, null now"),
        ("precision=bf16", 'run.precision: "auto" in the run, "bf16" now'),
    ],
)
def test_refuse__names_what_differs_and_how_to_go_on(override: str, line: str) -> None:
    values = ["learning_rate=1e-3", "mask_ratio=0.6", "steps=3000", "seed=0", "precision=auto"]
    old = load_recipe("stellar-tiny", values)
    with pytest.raises(ValueError, match="another recipe") as caught:
        refuse_other_recipe(old, load_recipe("stellar-tiny", [*values, override, "run.license=mit"]))
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == [f"  {line}"]
    assert "another --output" in lines[-1]
    assert "--init RUN/checkpoints/step-N" in lines[-1]
