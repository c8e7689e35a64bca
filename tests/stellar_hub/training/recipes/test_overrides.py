"""Values replaced on the command line: where they go, and what is refused."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_hub.old_names import old_names
from stellar_hub.training.recipes.files import apply_overrides, load_recipe, to_dict
from stellar_hub.training.recipes.overrides import _all_keys, described_keys, replace_values
from stellar_hub.training.recipes.sections import config_fields
from stellar_hub.training.recipes.suggestions import SYNONYMS

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
    ("name", "hint"),
    [
        ("image_size", "data.image_size or model.config.image_size"),
        ("learnin_rate", "'optimization.learning_rate'"),
        ("run.batch_size", "'optimization.batch_size'"),
        ("model.config.mask_ration", "'model.config.mask_ratio'"),
        ("zzz", "model, data, augmentation, optimization, run"),
        ("model", "model"),
        *((old, new) for old, new in old_names("recipe_keys").items()),
        *((old.split(".")[1], new) for old, new in old_names("recipe_keys").items()),
    ],
)
def test_override__of_an_unknown_key_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{hint}"):
        replace_values(TINY, [(name, 1)])


def test_override__into_what_is_not_a_section_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run must .*got 3"):
        replace_values(TINY | {"run": 3}, [("run.seed", 1)])


@settings(max_examples=25)
@given(st.floats(min_value=1e-5, max_value=1e3), st.integers(0, 2**32 - 1))
def test_override__keeps_numbers_exactly(rate: float, seed: int) -> None:
    recipe = load_recipe("stellar-tiny", [f"learning_rate={rate!r}", f"run.seed={seed}"])
    assert (recipe.optimization.learning_rate, recipe.run.seed) == (rate, seed)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "optimization.learning_rate"),
        ("optimization.lr", "optimization.learning_rate"),
        ("run.bs", "optimization.batch_size"),
        ("WD", "optimization.weight_decay"),
        ("num-epochs", "optimization.epochs"),
        ("data.workers", "data.num_workers"),
        ("config.depth", "model.config.num_hidden_layers"),
        ("ema", "model.config.teacher_momentum"),
        ("amp", "run.precision"),
        ("run.learning_rate", "optimization.learning_rate"),
    ],
)
def test_unknown_key__suggests_what_other_trainers_mean_by_it(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        apply_overrides(TINY, [f"{name}=1"])


def test_synonyms__stand_for_keys_that_exist() -> None:
    keys = {key for section in TINY.values() for key in section} | set(config_fields())
    assert set(SYNONYMS.values()) <= keys
    assert not set(SYNONYMS) & keys


def test_unknown_key__is_shown_without_control_characters() -> None:
    with pytest.raises(ValueError, match=r"x1b\[31mred") as caught:
        apply_overrides(TINY, ["\x1b[31mred=1"])
    assert str(caught.value).isprintable()


def test_described_keys__are_all_keys_with_a_sentence_each() -> None:
    found = described_keys()
    assert set(found) == {".".join(key) for key in _all_keys()}
    assert found["optimization.clip_norm"] == "Largest norm of the gradient of all weights; null does not clip."
    assert found["model.config.num_sparse_tokens"].startswith("Number `r` of sparse tokens")
    assert all(len(words) > 10 and "\n" not in words for words in found.values())
