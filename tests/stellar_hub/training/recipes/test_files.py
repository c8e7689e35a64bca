"""Recipe files: the shipped ones and their numbers, reading with errors that help, writing that comes back."""

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import timm
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stellar_hub.modeling import StellarConfig
from stellar_hub.old_names import old_names
from stellar_hub.registry import MODELS
from stellar_hub.training.recipes.files import (
    apply_overrides,
    from_dict,
    load_recipe,
    read_yaml,
    recipe_names,
    save_recipe,
    to_dict,
    write_yaml,
)
from stellar_hub.training.recipes.sections import SECTIONS, Recipe, config_fields

NAMES = ["b16", "finetune", "h16", "l16", "scratch-stage1", "scratch-stage2", "sop-b16", "sop-tiny", "stellar-tiny"]
PAPER = ["b16", "l16", "h16", "scratch-stage1", "scratch-stage2"]


def test_names__are_those_shipped() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestShipped:
    def test_shipped__loads_and_comes_back_from_a_file(self, name: str, tmp_path: Path) -> None:
        recipe = load_recipe(name)
        save_recipe(recipe, tmp_path / "again.yaml")
        assert load_recipe(tmp_path / "again.yaml") == recipe

    def test_shipped__leaves_images_and_destination_to_the_user(self, name: str) -> None:
        recipe = load_recipe(name)
        assert recipe.data.sources == ()
        assert (recipe.run.push_to_hub, recipe.run.license, recipe.run.trackers) == (None, None, ())

    def test_shipped__global_and_local_views_are_whole_patches(self, name: str) -> None:
        recipe = load_recipe(name)
        patch_size = StellarConfig(**recipe.model.config).patch_size
        for size in (recipe.data.image_size, recipe.data.local_size):
            assert size is None or size % patch_size == 0


@pytest.mark.parametrize(
    ("name", "init", "epochs", "learning_rate"),
    [
        ("b16", "timm:vit_base_patch16_224.mae", 150, 1.5e-4),
        ("l16", "timm:vit_large_patch16_224.mae", 100, 5e-5),
        ("h16", "timm:vit_huge_patch14_224.mae", 50, 5e-5),
        ("scratch-stage1", "random", 150, 1.5e-4),
        ("scratch-stage2", None, 75, 1.5e-4),
    ],
)
def test_published__start_length_and_learning_rate(
    name: str, init: str | None, epochs: int, learning_rate: float
) -> None:
    recipe = load_recipe(name)
    assert recipe.model.init == init
    assert (recipe.optimization.epochs, recipe.optimization.steps) == (epochs, None)
    assert recipe.optimization.learning_rate == learning_rate


@pytest.mark.parametrize("name", PAPER)
def test_published__optimizer_batch_and_views(name: str) -> None:
    recipe = load_recipe(name)
    optimization, data = recipe.optimization, recipe.data
    assert (optimization.optimizer, optimization.weight_decay, optimization.clip_norm) == ("adamw", 0.04, 3.0)
    assert (optimization.batch_size, optimization.gradient_accumulation_steps) == (2048, 1)
    assert recipe.run.precision == "bf16"
    assert (data.num_global_views, data.num_local_views, data.image_size) == (8, 8, 224)
    assert data.local_size == (84 if name == "h16" else 96)


@pytest.mark.parametrize("name", PAPER)
def test_published__crops_and_augmentation(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.data.global_area, recipe.data.local_area) == ((0.36, 1.0), (0.06, 0.36))
    assert recipe.data.flip_probability == 0.5
    assert dataclasses.astuple(recipe.augmentation) == (True, 0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.5, (0.1, 2.0), 9)


@pytest.mark.parametrize(
    ("name", "teacher_momentum", "mask_ratio"),
    [
        ("b16", None, 0.8),
        ("l16", None, 0.8),
        ("h16", None, 0.8),
        ("scratch-stage1", 0.996, 0.6),
        ("scratch-stage2", None, 0.8),
    ],
)
def test_published__teacher_and_mask_ratio(name: str, teacher_momentum: float | None, mask_ratio: float) -> None:
    config = load_recipe(name).model.config
    assert (config["teacher_momentum"], config["mask_ratio"]) == (teacher_momentum, mask_ratio)
    assert (config["reconstruction_head"], config["num_sparse_tokens"]) == ("vq", 16)


@pytest.mark.parametrize("name", PAPER)
def test_published__model_is_the_published_checkpoints(name: str) -> None:
    ours = StellarConfig(**load_recipe(name).model.config)
    model = f"stellar-{name}" if f"stellar-{name}" in MODELS else "stellar-b16"
    theirs = StellarConfig(**MODELS[model].config)
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"):
        assert getattr(ours, field) == getattr(theirs, field), field


@pytest.mark.parametrize("name", ["b16", "l16", "h16"])
def test_published__timm_knows_the_weights_it_starts_from(name: str) -> None:
    prefix, _, model = str(load_recipe(name).model.init).partition(":")
    assert prefix == "timm"
    assert model in timm.list_models(model, pretrained=True)


@pytest.mark.parametrize("name", ["sop-b16", "sop-tiny"])
def test_sop__states_the_whole_configuration(name: str) -> None:
    others = ("baseline_", "pixel_head_overlap")
    assert list(load_recipe(name).model.config) == [field for field in config_fields() if not field.startswith(others)]


def test_sop_b16__has_the_numbers_of_the_published_run() -> None:
    recipe, default = load_recipe("sop-b16"), StellarConfig()
    config, optimization = recipe.model.config, recipe.optimization
    of_sop = {name for name in config_fields() if name.startswith("sop_")}
    assert {name: config[name] for name in of_sop} == {name: getattr(default, name) for name in of_sop}
    assert (config["sop_memory_size"], config["sop_token_memory_size"]) == (65536, 8192)
    assert [config[f"sop_num_{name}"] for name in ("tasks", "anchors", "supports")] == [4, 64, 9]
    assert (config["prototype_hidden_size"], config["prototype_dim"]) == (2048, 256)
    assert (config["teacher_momentum"], config["teacher_momentum_schedule"]) == (0.996, "cosine")
    assert (config["token_objective"], config["mask_ratio"]) == ("sop_patches", 0.3)
    assert optimization.learning_rate == 5e-4 * optimization.batch_size / 256
    assert optimization.warmup_fraction * (optimization.epochs or 0) == 10
    assert (recipe.data.num_global_views, recipe.data.num_local_views) == (2, 0)
    assert recipe.data.global_area == (0.14, 1.0)


def test_sop_tiny__is_stellar_tiny_with_another_objective() -> None:
    tiny, sop = load_recipe("stellar-tiny"), load_recipe("sop-tiny")
    own = {name: value for name, value in sop.model.config.items() if not name.startswith("sop_")}
    assert own == tiny.model.config | {"token_objective": "sop"}
    assert dataclasses.replace(sop, model=tiny.model) == tiny


@pytest.mark.parametrize("name", [*PAPER, "stellar-tiny"])
def test_shipped__states_the_whole_configuration(name: str) -> None:
    config = load_recipe(name).model.config
    assert config["token_objective"] == "prototypes"
    others = ("sop_", "baseline_", "pixel_head_overlap")
    assert list(config) == [field for field in config_fields() if not field.startswith(others)]
    head_weight = 10 if config["reconstruction_head"] == "pixel" else 0.05
    assert config["reconstruction_weight"] == head_weight
    rest = {key for key in config if key != "reconstruction_weight"}
    if name == "b16":
        default = StellarConfig().to_dict()
        assert {key: config[key] for key in rest} == {key: default[key] for key in rest}


def test_own_recipes__start_length_and_cost() -> None:
    tiny, finetune = load_recipe("stellar-tiny"), load_recipe("finetune")
    assert (tiny.model.init, finetune.model.init, finetune.model.config) == ("random", None, {})
    assert (tiny.optimization.epochs is None, finetune.optimization.steps is None) == (True, True)
    assert (finetune.data.image_size, finetune.data.local_size) == (None, None)
    assert (finetune.data.num_global_views, finetune.data.num_local_views) == (4, 4)
    assert (tiny.run.precision, finetune.run.precision) == ("bf16", "auto")


def test_load__applies_overrides() -> None:
    recipe = load_recipe("finetune", ["model.init=stellar-b16", "data.sources=[here]", "mask_ratio=0.6", "steps=10"])
    assert (recipe.model.init, recipe.data.sources) == ("stellar-b16", ("here",))
    assert recipe.model.config == {"mask_ratio": 0.6}
    assert (recipe.optimization.epochs, recipe.optimization.steps) == (None, 10)


def test_load__prefers_a_shipped_name_to_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("finetune")
    (tmp_path / "finetune").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("finetune") == recipe


def test_load__reads_the_recipe_of_a_runs_folder(tmp_path: Path) -> None:
    recipe = load_recipe("stellar-tiny", ["seed=3"])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path) == recipe


def test_load__reads_a_file_without_suffix_if_it_exists(tmp_path: Path) -> None:
    save_recipe(load_recipe("stellar-tiny"), tmp_path / "mine")
    assert load_recipe(str(tmp_path / "mine")) == load_recipe("stellar-tiny")


@pytest.mark.parametrize("path", ["gone.yaml", "."])
def test_load__names_a_file_that_is_not_there(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\.yaml.*b16, finetune"):
        load_recipe(path)


def test_load__suggests_shipped_names() -> None:
    with pytest.raises(ValueError, match=r"'finetun'.*'finetune'"):
        load_recipe("finetun")
    with pytest.raises(ValueError, match=r"'zzz'.*b16, finetune"):
        load_recipe("zzz")


def written(values: Any, folder: Path) -> Path:
    path = folder / "mine.yaml"
    path.write_text(write_yaml(values), encoding="utf-8")
    return path


def test_load__names_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.yaml .*UTF-8"):
        load_recipe(path)


@pytest.mark.parametrize("values", [None, [1], "text"])
def test_load__refuses_what_is_not_a_mapping(values: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml.*model, data"):
        load_recipe(written(values, tmp_path))


def test_load__refuses_unknown_keys_with_close_ones(tmp_path: Path) -> None:
    values = to_dict(load_recipe("stellar-tiny"))
    values["optimization"]["learnin_rate"] = 1
    with pytest.raises(ValueError, match=r"mine\.yaml: optimization\.learnin_rate .*'learning_rate'"):
        load_recipe(written(values, tmp_path))
    with pytest.raises(ValueError, match=r"optimisation .*'optimization'"):
        from_dict({"optimisation": {}})


def test_load__names_every_missing_key(tmp_path: Path) -> None:
    values = to_dict(load_recipe("stellar-tiny"))
    del values["run"]["seed"], values["run"]["compile"]
    with pytest.raises(ValueError, match=r"missing run\.seed, run\.compile;"):
        load_recipe(written(values, tmp_path))
    del values["run"]
    with pytest.raises(ValueError, match="missing run;"):
        load_recipe(written(values, tmp_path))


def test_load__refuses_a_section_that_is_not_a_mapping(tmp_path: Path) -> None:
    values = to_dict(load_recipe("stellar-tiny")) | {"run": None}
    with pytest.raises(ValueError, match=r"run must .*None"):
        load_recipe(written(values, tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [("run.seed", "x"), ("augmentation.hue", 0.6), ("model.config.mask_ratio", "much")],
)
def test_load__names_file_and_key_of_a_wrong_value(key: str, value: Any, tmp_path: Path) -> None:
    *sections, last = key.split(".")
    values = to_dict(load_recipe("stellar-tiny"))
    section: dict[str, Any] = values
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(ValueError, match=rf"recipe .*mine\.yaml: {key} must .*{value}"):
        load_recipe(written(values, tmp_path))


OLD_RECIPE = write_yaml(to_dict(load_recipe("stellar-tiny", ["preview_every=7"])))
for _old, _new in old_names("recipe_keys").items():
    OLD_RECIPE = OLD_RECIPE.replace(f"  {_new.split('.')[1]}:", f"  {_old.split('.')[1]}:")


def test_load__reads_keys_of_earlier_releases_and_warns_of_each_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(OLD_RECIPE)
    with pytest.warns(FutureWarning, match=r"run\.preview_every") as caught:
        recipe = load_recipe(tmp_path)
    assert len(caught) == 1
    assert recipe == load_recipe("stellar-tiny", ["preview_every=7"])
    assert list(to_dict(recipe)["run"]) == list(to_dict(load_recipe("stellar-tiny"))["run"])


def test_load__refuses_a_key_under_both_names(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"{OLD_RECIPE}  preview_every: 8\n")
    with pytest.raises(ValueError, match=r"run\.preview_every"):
        load_recipe(tmp_path)


def test_to_dict__is_a_copy_of_plain_values_in_order() -> None:
    recipe = load_recipe("b16", ["model.config.tokenizer_channel_mult=[1, 2]"])
    values = to_dict(recipe)
    assert list(values) == list(SECTIONS)
    assert values["optimization"]["betas"] == [0.9, 0.999]
    again = from_dict(values)
    assert again == recipe
    values["model"]["config"]["tokenizer_channel_mult"].append(3)
    assert recipe.model.config["tokenizer_channel_mult"] == again.model.config["tokenizer_channel_mult"] == [1, 2]


TEXTS = st.text(min_size=1)
PROBABILITIES = st.floats(0, 1)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    folders = tuple(draw(st.lists(TEXTS, max_size=3)))
    tiny = load_recipe("stellar-tiny")
    low, high = sorted(draw(st.tuples(st.floats(1e-9, 1), st.floats(1e-9, 1))))
    model = dataclasses.replace(
        tiny.model, init=draw(TEXTS.filter(lambda text: text != "random")), config={"koleo_weight": draw(PROBABILITIES)}
    )
    data = dataclasses.replace(
        tiny.data, sources=folders, repeats=draw(st.sampled_from([(), (2,) * len(folders)])), local_area=(low, high)
    )
    run = dataclasses.replace(
        tiny.run, seed=draw(st.integers(0, 2**32 - 1)), license=draw(st.none() | TEXTS.filter(str.isprintable))
    )
    return dataclasses.replace(tiny, model=model, data=data, run=run)


@settings(max_examples=25)  # each reads and writes two files
@given(recipes())
def test_save__comes_back_whatever_the_values(recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        save_recipe(recipe, path)
        assert load_recipe(path) == recipe
        first = path.read_bytes()
        save_recipe(load_recipe(path), path)
        assert path.read_bytes() == first


def test_save__leaves_the_old_file_and_nothing_else_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.yaml"
    save_recipe(load_recipe("stellar-tiny"), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_recipe(load_recipe("finetune"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save__names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_recipe(load_recipe("finetune"), tmp_path / "gone" / "recipe.yaml")


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("5E3", 5e3), ("-2e+2", -2e2), (".5e1", 5.0), ("1.e-3", 1e-3), ("0.1", 0.1), ("-3", -3)],
)
def test_read__takes_numbers_as_people_write_them(text: str, number: float) -> None:
    value = read_yaml(text, "here")
    assert (value, type(value)) == (number, type(number))


@pytest.mark.parametrize("text", ["2024-01-01", "timm:vit_base_patch16_224.mae", "1e", "v1e5", "no", "1:30", "08", "="])
def test_read__leaves_text_alone(text: str) -> None:
    assert read_yaml(text, "here") == text


# Written by release 0.15, with PyYAML.
EARLIER = """\
sources: [/data/08, '010', 08, 0o17, '2024-01-01', 'timm:x', 'no', '1e-4', "\\x85"]
rate: 1.0e-12
share: 5.0e-05
license: null
on: true
"""


def test_read__gives_the_values_that_earlier_releases_wrote() -> None:
    assert read_yaml(EARLIER, "here") == {
        "sources": ["/data/08", "010", "08", "0o17", "2024-01-01", "timm:x", "no", "1e-4", "\x85"],
        "rate": 1e-12,
        "share": 5e-5,
        "license": None,
        "on": True,
    }


@given(VALUES)
@example({"\x85": ["1e-4", "~", "2024-01-01", "?0", "08", "", " a", "a: b", "#"]})
@example({"\u2028 a\x85": ["\u2029"]})
def test_write_and_read__give_the_value_back(value: Any) -> None:
    text = write_yaml(value)
    assert read_yaml(text, "here") == value
    assert write_yaml(read_yaml(text, "here")) == text


@given(st.floats(allow_nan=False))
def test_write_and_read__keep_floats_to_the_bit(value: float) -> None:
    back = read_yaml(write_yaml(value), "here")
    assert isinstance(back, float)
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


def test_write__keeps_order_and_puts_lists_on_one_line_wherever_they_are_used() -> None:
    shared = [0.9, 0.95]
    assert write_yaml({"b": shared, "a": {"c": shared}}) == "b: [0.9, 0.95]\na:\n  c: [0.9, 0.95]\n"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: [1, 2\n", 3, "expected"),
        ("a: 1\n\tb: 2\n", 2, r"\\t"),
        ("a: 1\nb: 2\na: 3\n", 3, '"a"'),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\nb: \x00\n", 2, "special characters"),
        ("a: &a [1]\nb: [*a, *a]\n", 2, "alias"),
        ("a: !!python/object:os.system x\n", 1, "os.system"),
        ("a: !!float 1\n", 1, "float"),
        ("a: 1\nb: " + 100000 * "[", 2, "50 levels"),
    ],
)
def test_read__names_source_and_line_of_what_is_not_a_recipes_yaml(text: str, line: int, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^mine\.yaml, line {line}: .*{problem}"):
        read_yaml(text, "mine.yaml")


@pytest.mark.parametrize("text", ["9" * 5000, "[[a]]: 1"], ids=["digits", "key"])
def test_read__refuses_what_python_cannot_hold(text: str) -> None:
    with pytest.raises(ValueError, match=r"^mine\.yaml.*not valid YAML"):
        read_yaml(text, "mine.yaml")


@pytest.mark.parametrize("override", ["seed", "=3"])
def test_override__is_a_key_and_a_value(override: str) -> None:
    with pytest.raises(ValueError, match=rf"section\.key=value.*{override}"):
        apply_overrides({}, [override])


def test_override__has_a_value_that_is_yaml() -> None:
    with pytest.raises(ValueError, match=r"seed=\[1', line 1"):
        apply_overrides({}, ["seed=[1"])


@pytest.mark.parametrize("values", [None, [1], "text"])
def test_overrides__need_a_mapping(values: Any) -> None:
    with pytest.raises(ValueError, match="model, data"):
        apply_overrides(values, [])


def test_load__takes_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(to_dict(load_recipe("stellar-tiny")), tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_recipe(path) == load_recipe("stellar-tiny")


def test_load__refuses_a_file_above_the_limit_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(to_dict(load_recipe("stellar-tiny")), tmp_path)
    monkeypatch.setenv("STELLAR_HUB_MAX_CONFIG_BYTES", "100")
    with pytest.raises(ValueError, match=r"mine\.yaml.*STELLAR_HUB_MAX_CONFIG_BYTES"):
        load_recipe(path)


def test_load__does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!timestamp 2024-01-01",
        "{a: b: c}",
        "%YAML 9.9\n---\na: 1",
        "<<: *a",
        "a: \x1b",
        "- *a",
        "&a *a",
    ],
)
def test_read__refuses_in_one_printable_line(text: str) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        read_yaml(text, "mine")
    assert str(caught.value).isprintable()


def test_load__gives_keys_of_later_releases_their_value(tmp_path: Path) -> None:
    values = to_dict(load_recipe("stellar-tiny"))
    del values["data"]["root"], values["run"]["cuda_graphs"], values["optimization"]["prototype_precision"]
    found = load_recipe(written(values, tmp_path))
    assert found.data.root is None
    assert (found.run.cuda_graphs, found.optimization.prototype_precision) == (False, "fp32")


@pytest.mark.parametrize("override", ["model.config.hidden_size=99999999999", "num_hidden_layers=99999", "init=random"])
def test_load__refuses_a_model_of_absurd_size(override: str) -> None:
    with pytest.raises(ValueError, match=r"^recipe b16: model\.config"):
        load_recipe("b16", [override, "model.config.tokenizer_channel_mult=[1, 99999999999]"])


def test_save__makes_a_private_file_that_others_cannot_read(tmp_path: Path) -> None:
    save_recipe(load_recipe("finetune"), tmp_path / "recipe.yaml", private=True)
    assert (tmp_path / "recipe.yaml").stat().st_mode & 0o777 == 0o600
