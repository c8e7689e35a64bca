"""Recipes as YAML files: the shipped ones by name, others by path."""

import copy
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.recipes.checks import did_you_mean, refuse_unknown, require
from stellar_hub.training.recipes.overrides import apply_overrides
from stellar_hub.training.recipes.sections import SECTIONS, Recipe, section_keys
from stellar_hub.training.recipes.yaml_text import read_yaml, write_yaml

SUFFIXES = (".yaml", ".yml")
RUN_FILE = "recipe.yaml"  # what a run leaves in its folder


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    folder = resources.files("stellar_hub.training") / "recipes"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with some of its values replaced.

    Args:
        name_or_path: One of `recipe_names()`, else a YAML file, or a run's folder, whose `recipe.yaml` is read.
        overrides: "section.key=value", the value written as in YAML: "optimization.learning_rate=1e-4",
            "model.config.mask_ratio=0.6", "data.sources=[a, b]". The section may be left out where only one has such
            a key. Later ones win; giving one of `epochs` and `steps` sets the other to null.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the name is unknown, the file no valid YAML, or a key or value wrong or missing; the message
            says where.
    """
    source, text = _read(name_or_path)
    values = read_yaml(text, source)
    try:
        return from_dict(apply_overrides(values, overrides))
    except ValueError as error:
        raise ValueError(f"recipe {source}: {error}") from error


def save_recipe(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """Write a recipe as YAML, keys in the order of the sections, so that `load_recipe(path) == recipe`.

    Raises:
        OSError: if it cannot be written; then nothing is left behind.
    """
    write_atomically(path, write_yaml(to_dict(recipe)).encode())


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe as nested dictionaries of YAML's own types, a copy; `from_dict` is the way back."""
    return {
        section: {key: _plain(value) for key, value in vars(getattr(recipe, section)).items()} for section in SECTIONS
    }


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested dictionaries.

    Raises:
        ValueError: if a section or key is unknown or missing, or a value wrong.
    """
    require(isinstance(values, Mapping), "a recipe", values, f"a mapping with the sections {', '.join(SECTIONS)}")
    _check_keys(values, SECTIONS, "")
    for name, section in SECTIONS.items():
        require(isinstance(values[name], Mapping), name, values[name], "a mapping of keys to values")
        _check_keys(values[name], section_keys(section), f"{name}.")
    return Recipe(**{name: section(**copy.deepcopy(values[name])) for name, section in SECTIONS.items()})


def _check_keys(values: Mapping[str, Any], allowed: Sequence[str] | Mapping[str, Any], prefix: str) -> None:
    refuse_unknown(values, allowed, prefix)
    missing = [f"{prefix}{key}" for key in allowed if key not in values]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a recipe states every value, and null where there is none")


def _read(name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """What to call the file in errors, and its text."""
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if name in recipe_names():
        file = resources.files("stellar_hub.training") / "recipes" / f"{name}.yaml"
        return name, file.read_text(encoding="utf-8")
    if not (path.suffix in SUFFIXES or path.exists()):
        hint = did_you_mean(name, recipe_names())
        raise ValueError(f"unknown recipe {name!r}{hint or ':'} it is no file, and none of {', '.join(recipe_names())}")
    path = path / RUN_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}; shipped ones are named {', '.join(recipe_names())}")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is no text in UTF-8: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
