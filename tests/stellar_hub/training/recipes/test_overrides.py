"""Values replaced on the command line: where they go, and what is refused."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.training.recipes.files import load_recipe, to_dict
from stellar_hub.training.recipes.overrides import apply_overrides

TINY = to_dict(load_recipe("stellar-tiny"))
B16 = to_dict(load_recipe("b16"))


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optimization.learning_rate=1e-4", "optimization", "learning_rate", 1e-4),
        ("learning_rate=1e-4", "optimization", "learning_rate", 1e-4),
        (" seed = 7 ", "run", "seed", 7),
        ("data.sources=[one, 'two, three']", "data", "sources", ["one", "two, three"]),
        ("clip_norm=null", "optimization", "clip_norm", None),
        ("push_to_hub=", "run", "push_to_hub", None),
        ("init=timm:vit_tiny_patch16_224", "model", "init", "timm:vit_tiny_patch16_224"),
        ("vqgan=a=b.bin", "model", "vqgan", "a=b.bin"),
        ("global_views=false", "augmentation", "global_views", False),
        ("model.config={}", "model", "config", {}),
    ],
)
def test_override__replaces_one_value(override: str, section: str, key: str, value: Any) -> None:
    expected = copy.deepcopy(TINY)
    expected[section][key] = value
    assert apply_overrides(TINY, [override]) == expected


@pytest.mark.parametrize("name", ["model.config.koleo_weight", "config.koleo_weight", "koleo_weight"])
def test_override__reaches_fields_of_the_configuration(name: str) -> None:
    config = apply_overrides(TINY, [f"{name}=0.5"])["model"]["config"]
    assert config == TINY["model"]["config"] | {"koleo_weight": 0.5}


def test_override__changes_a_copy() -> None:
    before = copy.deepcopy(TINY)
    apply_overrides(TINY, ["model.config.mask_ratio=0.1", "seed=9"])
    assert before == TINY


def test_overrides__later_ones_win() -> None:
    assert apply_overrides(TINY, ["seed=1", "run.seed=2"])["run"]["seed"] == 2


def test_length__in_steps_takes_the_place_of_epochs_and_back() -> None:
    assert (B16["optimization"]["epochs"], B16["optimization"]["steps"]) == (150, None)
    in_steps = apply_overrides(B16, ["steps=10"])
    assert (in_steps["optimization"]["epochs"], in_steps["optimization"]["steps"]) == (None, 10)
    in_epochs = apply_overrides(in_steps, ["epochs=3", "steps=null"])
    assert (in_epochs["optimization"]["epochs"], in_epochs["optimization"]["steps"]) == (3, None)


def test_length__given_as_both_is_left_for_the_recipe_to_refuse() -> None:
    both = apply_overrides(B16, ["steps=10", "epochs=3"])
    assert (both["optimization"]["epochs"], both["optimization"]["steps"]) == (3, 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r'must be written "section\.key=value", got \'seed\''),
        ("=3", r'must be written "section\.key=value"'),
        ("image_size=64", "'image_size' could mean data.image_size or model.config.image_size; write which"),
        ("learnin_rate=1", "unknown key learnin_rate in an override; did you mean 'optimization.learning_rate'"),
        ("run.batch_size=1", "unknown key run.batch_size in an override; did you mean 'optimization.batch_size'"),
        ("model.config.mask_ration=1", "did you mean 'model.config.mask_ratio'"),
        ("zzz=1", "the sections are model, data, augmentation, optimization, run"),
        ("model=3", "unknown key model in an override"),
        ("seed=[1", r"override 'seed=\[1', line 1: not valid YAML"),
    ],
)
def test_override__is_refused_with_a_hint(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides(TINY, [override])


@pytest.mark.parametrize("values", [None, [1], "text"])
def test_overrides__of_what_is_no_recipe_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="a recipe must be a mapping with the sections model, data"):
        apply_overrides(values, [])


def test_override__into_what_is_no_section_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run must be a mapping of keys to values, got 3"):
        apply_overrides(TINY | {"run": 3}, ["run.seed=1"])


@given(st.floats(min_value=1e-5, max_value=1e3), st.integers(0, 2**32 - 1))
def test_override__keeps_numbers_exactly(rate: float, seed: int) -> None:
    recipe = load_recipe("stellar-tiny", [f"learning_rate={rate!r}", f"run.seed={seed}"])
    assert (recipe.optimization.learning_rate, recipe.run.seed) == (rate, seed)
