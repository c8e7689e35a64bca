"""The sections of a recipe: what they accept, what they refuse, and how they say so."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.modeling import StellarConfig
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import SECTIONS, Recipe, config_fields, section_keys

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


def test_recipe__cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.optimization.learning_rate = 1.0  # type: ignore[misc]


def test_fields__make_lists_tuples_and_whole_numbers_floats() -> None:
    data = change("data", sources=["a", "b"], repeats=[1, 2], global_area=[1, 1])
    assert (data.sources, data.repeats, data.global_area) == (("a", "b"), (1, 2), (1.0, 1.0))
    assert all(isinstance(share, float) for share in data.global_area)
    rate = change("optimization", learning_rate=1).learning_rate
    assert (rate, type(rate)) == (1.0, float)


def test_config__is_a_copy() -> None:
    config = {"mask_ratio": 0.5}
    model = change("model", init=None, config=config)
    config["mask_ratio"] = 0.1
    assert model.config == {"mask_ratio": 0.5}


WRONG_TYPES: list[tuple[str, str, Any, str]] = [
    ("model", "init", 3, r"model\.init must be a string, got 3"),
    ("model", "config", [1], r"model\.config must be a mapping, got \[1\]"),
    ("model", "vqgan", False, r"model\.vqgan must be a string, got False"),
    ("data", "sources", "images", r"data\.sources must be a list, written \[a, b\], got 'images'"),
    ("data", "sources", [3], r"data\.sources\[0\] must be a string, got 3"),
    ("data", "num_global_views", 2.0, r"data\.num_global_views must be a whole number, got 2\.0"),
    ("data", "num_global_views", True, r"data\.num_global_views must be a whole number, got True"),
    ("data", "num_workers", "all", r"data\.num_workers must be a whole number, got .all."),
    ("data", "global_area", [0.5], r"data\.global_area must be a list of 2, got \[0\.5\]"),
    ("data", "local_area", [0.1, "x"], r"data\.local_area\[1\] must be a number, got 'x'"),
    ("augmentation", "global_views", 1, r"augmentation\.global_views must be true or false, got 1"),
    ("augmentation", "hue", False, r"augmentation\.hue must be a number, got False"),
    ("optimization", "learning_rate", "1e-4", r"optimization\.learning_rate must be a number, got '1e-4'"),
    ("optimization", "learning_rate", float("nan"), r"optimization\.learning_rate must be finite, got nan"),
    ("optimization", "clip_norm", float("inf"), r"optimization\.clip_norm must be finite, got inf"),
    ("optimization", "optimizer", None, r"optimization\.optimizer must be a string, got None"),
    ("run", "precision", "fp8", r"run\.precision must be one of auto, fp32, bf16, fp16, fp64, got 'fp8'"),
    ("run", "precision", ["bf16"], r"run\.precision must be one of auto, fp32, bf16, fp16, fp64, got \['bf16'\]"),
    ("run", "trackers", ["mlflow"], r"run\.trackers\[0\] must be one of tensorboard, wandb, got 'mlflow'"),
    ("run", "license", False, r"run\.license must be a string, got False"),  # YAML reads `no` so
]


@pytest.mark.parametrize(("section", "key", "value", "message"), WRONG_TYPES)
def test_fields__refuse_other_types(section: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(section, **{key: value})


OUT_OF_RANGE: list[tuple[str, str, Any, str]] = [
    ("model", "init", "", 'must be "random", "timm:NAME", a checkpoint or null'),
    ("data", "sources", [""], "must be paths or names, none of them empty"),
    ("data", "repeats", [0], "must be empty or a number >= 1 for each of the 0 sources"),
    ("data", "image_size", 0, "must be at least 1, or null"),
    ("data", "local_size", -8, "must be at least 1, or null"),
    ("data", "num_global_views", 0, "must be at least 1"),
    ("data", "num_local_views", -1, "must be at least 0"),
    ("data", "global_area", [0.5, 0.4], r"must be two ascending shares within \(0, 1\]"),
    ("data", "global_area", [0.0, 0.4], r"must be two ascending shares within \(0, 1\]"),
    ("data", "local_area", [0.5, 1.1], r"must be two ascending shares within \(0, 1\]"),
    ("data", "flip_probability", 1.5, r"must be within \[0, 1\]"),
    ("data", "num_workers", -1, "must be at least 0, or null"),
    ("augmentation", "brightness", -0.1, "must be at least 0"),
    ("augmentation", "hue", 0.6, r"must be within \[0, 0\.5\]"),
    ("augmentation", "blur_probability", -1, r"must be within \[0, 1\]"),
    ("augmentation", "blur_sigma", [2.0, 0.1], "must be two ascending numbers above 0"),
    ("augmentation", "blur_kernel_size", 8, "must be odd and at least 1"),
    ("optimization", "learning_rate", 0, "must be above 0"),
    ("optimization", "weight_decay", -1, "must be at least 0"),
    ("optimization", "betas", [0.9, 1.0], r"must be two numbers within \[0, 1\)"),
    ("optimization", "layer_decay", 0, r"must be within \(0, 1\], or null"),
    ("optimization", "clip_norm", 0, "must be above 0, or null for no clipping"),
    ("optimization", "batch_size", 0, "must be at least 1"),
    ("optimization", "gradient_accumulation_steps", 0, "must be at least 1"),
    ("optimization", "steps", 0, "must be at least 1"),
    ("optimization", "warmup_fraction", 1.1, r"must be within \[0, 1\]"),
    ("optimization", "final_learning_rate", 0.1, r"must be within \[0, 0\.001\], which is learning_rate"),
    ("run", "seed", -1, r"must be within \[0, 4294967295\]"),
    ("run", "log_every", 0, "must be at least 1"),
    ("run", "save_every", 0, "must be at least 1"),
    ("run", "keep_checkpoints", 0, "must be at least 1"),
    ("run", "preview_every", -1, "must be at least 0"),
    ("run", "export_every", -1, "must be at least 0"),
    ("run", "push_to_hub", "", "must be a name, or null"),
    ("run", "license", "", "must be a name, or null"),
]


@pytest.mark.parametrize(("section", "key", "value", "message"), OUT_OF_RANGE)
def test_fields__refuse_values_out_of_range_and_say_what_is_allowed(
    section: str, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{section}\.{key} .*{message}, got "):
        change(section, **{key: value})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("model", {"init": None, "config": {}, "vqgan": "tokenizer.bin"}),
        ("data", {"sources": ["a", "b"], "repeats": [1, 3], "image_size": None, "local_size": None}),
        ("data", {"num_global_views": 1, "num_local_views": 0, "num_workers": None, "local_area": [1.0, 1.0]}),
        ("augmentation", {"brightness": 0, "hue": 0.5, "blur_sigma": [1, 1], "blur_kernel_size": 1}),
        ("optimization", {"layer_decay": 1, "clip_norm": None, "betas": [0, 0], "final_learning_rate": 1e-3}),
        ("optimization", {"epochs": 1, "steps": None, "warmup_fraction": 0, "weight_decay": 0}),
        ("run", {"seed": 2**32 - 1, "preview_every": 0, "trackers": ["wandb", "tensorboard"]}),
        ("run", {"push_to_hub": "a/b", "license": "mit"}),
    ],
)
def test_fields__accept_the_ends_of_their_ranges(section: str, values: dict[str, Any]) -> None:
    for key, value in values.items():
        kept = getattr(change(section, **values), key)
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("license", [None, " "])
def test_license__is_asked_for_before_a_run_that_pushes(license: str | None) -> None:
    message = r"run\.license must be given with push_to_hub, as the Hub spells it \(mit, .*, got "
    with pytest.raises(ValueError, match=message):
        change("run", push_to_hub="user/name", license=license)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "muon"])
def test_optimizer__may_be_any_of_timms(name: str) -> None:
    assert change("optimization", optimizer=name).optimizer == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("adammw", "; did you mean 'adamw'"),
        ("AdamW", "; did you mean 'adamw'"),
        ("lookahead_adamw", "; known: .*adamw, .*sgd"),
        ("", "; known: .*adamw, .*sgd"),
        ("adahessian", ""),  # of second order
    ],
)
def test_optimizer__that_is_unknown_is_refused_with_close_ones(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"^optimization\.optimizer must be one of timm's, got '{name}'{hint}"):
        change("optimization", optimizer=name)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16", "fp64"])
def test_precision__may_be_any_of_these(precision: str) -> None:
    assert change("run", precision=precision).precision == precision


@pytest.mark.parametrize(("epochs", "steps"), [(None, None), (3, 100)])
def test_length__is_exactly_one_of_epochs_and_steps(epochs: int | None, steps: int | None) -> None:
    message = f"exactly one of optimization.epochs and optimization.steps .* epochs {epochs} and steps {steps}"
    with pytest.raises(ValueError, match=message):
        change("optimization", epochs=epochs, steps=steps)


@given(low=st.floats(allow_infinity=True), high=st.floats(allow_infinity=True))
def test_areas__are_kept_exactly_if_ascending_within_the_image(low: float, high: float) -> None:
    if 0 < low <= high <= 1:
        assert change("data", global_area=[low, high]).global_area == (low, high)
    else:
        with pytest.raises(ValueError, match=r"data\.global_area"):
            change("data", global_area=[low, high])


def test_config_fields__are_stellar_configs_own() -> None:
    fields = config_fields()
    assert {"hidden_size", "mask_ratio", "teacher_momentum", "tokenizer_channel_mult"} <= set(fields)
    assert "id2label" not in fields
    assert all(hasattr(StellarConfig(), name) for name in fields)


def test_config__refuses_unknown_fields_with_close_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown key model\.config\.mask_ration; did you mean 'mask_ratio'"):
        change("model", config={"mask_ration": 0.5})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", True, "of type int, got True"),
        ("mask_ratio", "much", r"of type float \| int \| null, got 'much'"),
        ("reconstruction_head", "jpeg", r"of type Literal\['vq', 'pixel'\], got 'jpeg'"),
        ("koleo_weight", float("nan"), "finite, got nan"),
    ],
)
@pytest.mark.parametrize("init", ["random", None])
def test_config__refuses_wrong_types(field: str, value: Any, message: str, init: str | None) -> None:
    with pytest.raises(ValueError, match=rf"^model\.config\.{field} must be {message}"):
        change("model", init=init, config={field: value})


def test_config__must_fit_together_where_it_is_the_whole_configuration() -> None:
    with pytest.raises(ValueError, match=r"model\.config: hidden_size .* 12, got 100"):
        change("model", init="random", config={"hidden_size": 100})


def test_config__need_not_fit_the_defaults_where_a_checkpoint_gives_the_rest() -> None:
    assert change("model", init="some/checkpoint", config={"hidden_size": 100}).config == {"hidden_size": 100}
