"""The sections of a recipe: what they accept, what they refuse, and how they say so."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.modeling import StellarConfig
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import (
    SECTIONS,
    Recipe,
    config_fields,
    refuse_unknown,
    section_keys,
)

TINY = load_recipe("stellar-tiny", ["learning_rate=1e-3", "steps=3000", "sources=[]", "repeats=[]"])


def change(section: str, **values: Any) -> Any:
    return dataclasses.replace(getattr(TINY, section), **values)


def test_recipe__has_the_five_sections_in_order() -> None:
    assert list(SECTIONS) == ["model", "data", "augmentation", "optimization", "run"]


def test_recipe__has_no_defaults_anywhere() -> None:
    for section in (Recipe, *SECTIONS.values()):
        for field in dataclasses.fields(section):
            assert field.default is dataclasses.MISSING
            assert field.default_factory is dataclasses.MISSING


def test_recipe__describes_every_key() -> None:
    for section in (Recipe, *SECTIONS.values()):
        for key in section_keys(section):
            assert f"\n        {key}: " in (section.__doc__ or ""), f"{section.__name__}.{key} is not described"


def test_with_values__replaces_values_of_one_section_and_names_the_section() -> None:
    changed = TINY.with_values("run", seed=3, save_every=7)
    assert changed == dataclasses.replace(TINY, run=dataclasses.replace(TINY.run, seed=3, save_every=7))
    with pytest.raises(ValueError, match=r"^run\.save_every .*got 0"):
        TINY.with_values("run", save_every=0)


def test_config__is_a_copy() -> None:
    config = {"mask_ratio": 0.5}
    model = change("model", init=None, config=config)
    config["mask_ratio"] = 0.1
    assert model.config == {"mask_ratio": 0.5}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "config", [1]),
        ("data", "sources", [3]),
        ("augmentation", "hue", False),
        ("optimization", "learning_rate", "1e-4"),
        ("run", "precision", "fp8"),
        ("run", "trackers", ["mlflow"]),
    ],
)
def test_fields__refuse_other_types(section: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*, got ") as caught:
        change(section, **{key: value})
    assert repr(value) in str(caught.value)


OUT_OF_RANGE: list[tuple[str, str, Any, str]] = [
    ("model", "init", "", "timm:NAME"),
    ("data", "sources", [""], "empty"),
    ("data", "repeats", [0], "0 sources"),
    ("data", "image_size", 0, "at least 1"),
    ("data", "num_global_views", 0, "at least 1"),
    ("data", "num_local_views", -1, "at least 0"),
    ("data", "global_area", [0.5, 0.4], "ascending"),
    ("data", "flip_probability", 1.5, "0, 1"),
    ("data", "num_workers", -1, "at least 0"),
    ("augmentation", "brightness", -0.1, "at least 0"),
    ("augmentation", "hue", 0.6, "0.5"),
    ("augmentation", "blur_probability", -1, "0, 1"),
    ("augmentation", "blur_sigma", [2.0, 0.1], "ascending"),
    ("augmentation", "blur_kernel_size", 8, "odd"),
    ("optimization", "learning_rate", 0, "above 0"),
    ("optimization", "weight_decay", -1, "at least 0"),
    ("optimization", "betas", [0.9, 1.0], "0, 1"),
    ("optimization", "layer_decay", 0, "0, 1"),
    ("optimization", "clip_norm", 0, "above 0"),
    ("optimization", "batch_size", 0, "at least 1"),
    ("optimization", "steps", 0, "at least 1"),
    ("optimization", "warmup_fraction", 1.1, "0, 1"),
    ("optimization", "final_learning_rate", 0.1, "0.001"),
    ("run", "seed", -1, "4294967295"),
    ("run", "save_every", 0, "at least 1"),
    ("run", "preview_every", -1, "at least 0"),
    ("run", "license", "", "null"),
]


@pytest.mark.parametrize(("section", "key", "value", "allowed"), OUT_OF_RANGE)
def test_fields__refuse_values_out_of_range_and_say_what_is_allowed(
    section: str, key: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{key} .*{allowed}.*, got "):
        change(section, **{key: value})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("data", {"sources": ["a", "b"], "repeats": [1, 3], "image_size": None, "local_size": None}),
        ("data", {"num_global_views": 1, "num_local_views": 0, "num_workers": None, "local_area": [1.0, 1.0]}),
        ("augmentation", {"brightness": 0, "hue": 0.5, "blur_sigma": [1, 1], "blur_kernel_size": 1}),
        ("optimization", {"layer_decay": 1, "clip_norm": None, "betas": [0, 0], "final_learning_rate": 1e-3}),
        ("optimization", {"epochs": 1, "steps": None, "warmup_fraction": 0, "weight_decay": 0}),
        ("run", {"seed": 2**32 - 1, "preview_every": 0, "push_to_hub": "a/b", "license": "mit"}),
    ],
)
def test_fields__accept_the_ends_of_their_ranges(section: str, values: dict[str, Any]) -> None:
    for key, value in values.items():
        kept = getattr(change(section, **values), key)
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("license", [None, " "])
def test_license__is_asked_for_before_a_run_that_pushes(license: str | None) -> None:
    with pytest.raises(ValueError, match=r"^license .*push_to_hub"):
        change("run", push_to_hub="user/name", license=license)


def test_optimizer__may_be_any_of_timms() -> None:
    assert change("optimization", optimizer="muon").optimizer == "muon"


@pytest.mark.parametrize(
    ("name", "hint"), [("AdamW", "did you mean 'adamw'"), ("lookahead_adamw", "known: .*sgd"), ("adahessian", "")]
)
def test_optimizer__that_is_unknown_or_of_second_order_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"^optimizer must .*'{name}'.*{hint}"):
        change("optimization", optimizer=name)


@pytest.mark.parametrize(("epochs", "steps"), [(None, None), (3, 100)])
def test_length__is_exactly_one_of_epochs_and_steps(epochs: int | None, steps: int | None) -> None:
    with pytest.raises(ValueError, match=f"^epochs .* epochs {epochs} and steps {steps}"):
        change("optimization", epochs=epochs, steps=steps)


@given(low=st.floats(allow_infinity=True), high=st.floats(allow_infinity=True))
def test_areas__are_kept_exactly_if_ascending_within_the_image(low: float, high: float) -> None:
    if 0 < low <= high <= 1:
        assert change("data", global_area=[low, high]).global_area == (low, high)
    else:
        with pytest.raises(ValueError, match=r"^global_area"):
            change("data", global_area=[low, high])


def test_config_fields__are_stellar_configs_own() -> None:
    fields = config_fields()
    assert {"hidden_size", "mask_ratio", "teacher_momentum", "tokenizer_channel_mult"} <= set(fields)
    assert "id2label" not in fields
    assert all(hasattr(StellarConfig(), name) for name in fields)


def test_config__refuses_unknown_fields_with_close_ones() -> None:
    with pytest.raises(ValueError, match=r"^config\.mask_ration .*'mask_ratio'"):
        change("model", config={"mask_ration": 0.5})


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("hidden_size", True, "int"),
        ("mask_ratio", "much", r"float \| int \| null"),
        ("reconstruction_head", "jpeg", "'vq', 'pixel'"),
        ("koleo_weight", float("nan"), "finite"),
    ],
)
def test_config__refuses_wrong_types(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.{field} must be .*{allowed}.* got {value!r}"):
        change("model", init=None, config={field: value})


def test_config__must_fit_together_where_it_is_the_whole_configuration() -> None:
    config = {"hidden_size": 100}
    with pytest.raises(ValueError, match=r"^config: .*num_attention_heads 12.*100"):
        change("model", init="random", config=config)
    assert change("model", init="some/checkpoint", config=config).config == config


def test_refuse_unknown__lists_all_where_none_is_close() -> None:
    refuse_unknown(["a"], ["a", "b"], "x.")
    with pytest.raises(ValueError, match=r"^x\.7 .*a, b$"):
        refuse_unknown([7], ["a", "b"], "x.")


@pytest.mark.parametrize("value", ["mit\nbase_model: mine", "mit\x1b[31m", "mit\u202e"])
@pytest.mark.parametrize("key", ["license", "push_to_hub"])
def test_names_in_the_card__are_printable(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .* one line") as caught:
        change("run", **{"license": "mit", key: value})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("data", "image_size"),
        ("data", "num_global_views"),
        ("data", "num_local_views"),
        ("data", "num_workers"),
        ("optimization", "batch_size"),
        ("optimization", "gradient_accumulation_steps"),
        ("augmentation", "blur_kernel_size"),
    ],
)
def test_numbers_that_take_memory__have_a_bound(section: str, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*(at most|within)"):
        change(section, **{key: 2**40 + 1})
