"""Recipes as YAML files: the shipped ones by name, others by path.

The YAML is version 1.2's, with less that looks like a number: `1e-4` is a number, but a date, `no`, `1_000` and `08`
are text.
"""

import copy
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, SafeRepresenter
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent
from ruamel.yaml.nodes import ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from stellar_hub.data.strict_settings import check_value, shown
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import did_you_mean, old_names
from stellar_hub.training.recipes.overrides import replace_values
from stellar_hub.training.recipes.sections import SECTIONS, Recipe, refuse_unknown, section_keys

SUFFIXES = (".yaml", ".yml")
RUN_FILE = "recipe.yaml"  # the recipe's name in the folder of a run
# Keys that came with a later release, with the value that earlier recipes stand for.
LATER_KEYS: dict[str, dict[str, Any]] = {
    "data": {"root": None, "probe": None},
    "optimization": {"prototype_precision": "fp32"},
    "run": {"cuda_graphs": False, "probe_every": 0},
}
MAX_DEPTH = 50  # levels of lists and mappings
MAX_MESSAGE = 2000  # characters of an error


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package, sorted."""
    folder = resources.files("stellar_hub.training") / "recipes"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, and replaces some of its values.

    Keys that an earlier release named otherwise are read with a `FutureWarning`.

    Args:
        name_or_path: One of `recipe_names()`, a YAML file, or the folder of a run, whose `recipe.yaml` is read.
        overrides: Replacements, as in [`apply_overrides`].

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the name is unknown, the file is not valid YAML, or a key or value is wrong or missing; the
            message says where.
    """
    source, text = _read(name_or_path)
    values = read_yaml(text, source)
    try:
        return from_dict(apply_overrides(_with_new_names(values, source), overrides))
    except ValueError as error:
        raise ValueError(one_line(f"recipe {source}: {error}", MAX_MESSAGE)) from error


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of a recipe's values with some of them replaced.

    Args:
        values: Nested dictionaries, as from [`to_dict`].
        overrides: Replacements "section.key=value"; the value is YAML: "optimization.learning_rate=1e-4",
            "model.config.mask_ratio=0.6", "data.sources=[a, b]". The section may be left out where only one section has
            the key. Later ones win. `epochs` sets `steps` to null, and `steps` sets `epochs` to null.

    Raises:
        ValueError: if an override does not have the form "key=value", its value is not YAML, or its key is unknown, of
            an earlier release or in several sections.
    """
    check_value(isinstance(values, Mapping), "a recipe", values, f"a mapping with the sections {', '.join(SECTIONS)}")
    replaced = []
    for override in overrides:
        name, equals, text = override.partition("=")
        check_value(bool(equals and name.strip()), "an override", override, 'written "section.key=value"')
        check_limit("config_bytes", len(text), "an override")
        replaced.append((name.strip(), read_yaml(text, f"override {shown(override)}")))
    return replace_values(values, replaced)


def save_recipe(recipe: Recipe, path: str | os.PathLike[str], *, private: bool = False) -> None:
    """Writes a recipe as YAML, so that `load_recipe(path) == recipe`; keys have the order of the sections.

    Args:
        recipe: The recipe.
        path: File to write; it is replaced if it exists.
        private: Whether only the user may read the file, as addresses of images may hold passwords.

    Raises:
        OSError: if it cannot be written; then nothing is left behind.
    """
    write_atomically(path, write_yaml(to_dict(recipe)).encode(), private=private)


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Returns a copy of the recipe as nested dictionaries of YAML's own types; `from_dict` reverses it."""
    return {
        section: {key: _plain(value) for key, value in vars(getattr(recipe, section)).items()} for section in SECTIONS
    }


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from nested dictionaries.

    Raises:
        ValueError: if a section or key is unknown or missing, or a value is wrong; the message begins with
            "section.key".
    """
    check_value(isinstance(values, Mapping), "a recipe", values, f"a mapping with the sections {', '.join(SECTIONS)}")
    _check_keys(values, SECTIONS, "")
    sections = {}
    for name, section in SECTIONS.items():
        check_value(isinstance(values[name], Mapping), name, values[name], "a mapping of keys to values")
        stated = {**LATER_KEYS.get(name, {}), **values[name]}
        _check_keys(stated, section_keys(section), f"{name}.")
        try:
            sections[name] = section(**copy.deepcopy(stated))
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from error
    return Recipe(**sections)


def read_yaml(text: str, source: str) -> Any:
    """Returns the value that a YAML text holds, made of dictionaries, lists, numbers, booleans, strings and None.

    Args:
        text: YAML, one document.
        source: Name of the text in an error.

    Raises:
        ValueError: if the text is not valid YAML, or has aliases, tags or more than 50 levels; the message names
            `source` and the line.
    """
    try:
        _refuse_unneeded(text)
        return _yaml().load(text)
    except Exception as error:  # ruamel.yaml raises others than its own, such as for a number of 5000 digits
        line, reason = _place_and_reason(error, text)
        raise ValueError(one_line(f"{source}{line}: not valid YAML: {reason}", MAX_MESSAGE)) from error


def _place_and_reason(error: Exception, text: str) -> tuple[str, object]:
    """Returns ", line N" or "" for an error of the YAML reader, and what is wrong there."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f", line {mark.line + 1}" if mark else "", error.problem or error.context
    if isinstance(error, ReaderError):
        return f", line {text.count(chr(10), 0, error.position) + 1}", error.reason
    return "", error


def _refuse_unneeded(text: str) -> None:
    """Raises MarkedYAMLError for what a recipe does not need: a few lines of aliases can stand for gigabytes."""
    depth = 0
    for event in _yaml().parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = f"more than {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""
        if isinstance(event, AliasEvent):
            problem = "an alias stands here; write the value"
        elif isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            problem = f"remove the tag {event.tag}"
        if problem:
            raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def write_yaml(value: Any) -> str:
    """Returns dictionaries, lists and scalars as YAML; keys keep their order, and a list takes one line."""
    file = io.StringIO()
    _yaml().dump(value, file)
    return file.getvalue()


def _yaml() -> YAML:
    """Returns a reader and writer of YAML; it keeps a state, so that each text needs a new one."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _Resolver, _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width, yaml.allow_unicode = 120, True
    return yaml


_PLAIN_SCALARS = (  # tag, first characters, pattern
    ("null", ["", *"~nN"], "~|null|Null|NULL|"),
    ("bool", "tTfF", "true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", "[-+]?(0|[1-9][0-9]*)"),
    ("float", "-+.0123456789", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+|[-+]?[0-9]+\.[0-9]*|\.[0-9]+"),
    ("float", "-+.", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
)


class _Resolver(VersionedResolver):
    """The table of what is not text without quotes.

    It is YAML 1.2's, less octal and hexadecimal numbers and numbers with leading zeros: earlier releases wrote text
    such as `08` without quotes.
    """

    processing_version = (1, 2)  # also where a directive says 1.1
    versioned_resolver: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    for _tag, _firsts, _pattern in _PLAIN_SCALARS:
        for _first in _firsts:
            _entry = (f"tag:yaml.org,2002:{_tag}", re.compile(rf"({_pattern})\Z"))
            versioned_resolver.setdefault(_first, []).append(_entry)


class _Representer(SafeRepresenter):
    """A writer that puts a list on one line, and writes a value out wherever it is used."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: list[Any]) -> SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> ScalarNode:
        # Names and paths may stand without quotes. ruamel.yaml writes some other text, such as `?0` in a list, so that
        # it reads as something else.
        style = None if re.fullmatch(r"[\w./~][\w ./:+@-]*", data) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(str, _Representer.represent_str)


def _with_new_names(values: Any, source: str) -> Any:
    """Returns the values with keys of earlier releases under their new names; each old key is warned of."""
    for old, new in old_names("recipe_keys").items():
        (name, old_key), new_key = old.split("."), new.rpartition(".")[2]
        section = values.get(name) if isinstance(values, Mapping) else None
        if isinstance(section, Mapping) and old_key in section:
            if new_key in section:
                raise ValueError(f"{old} and {new} are two names of one key; remove {old}")
            warnings.warn(f"recipe {source}: {old} is now called {new}", FutureWarning, stacklevel=2)
            renamed = {new_key if key == old_key else key: value for key, value in section.items()}
            values = {**values, name: renamed}
    return values


def _check_keys(values: Mapping[str, Any], allowed: Sequence[str] | Mapping[str, Any], prefix: str) -> None:
    refuse_unknown(values, allowed, prefix)
    missing = [f"{prefix}{key}" for key in allowed if key not in values]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; a recipe states every value, and null where there is none")


def _read(name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """Returns the name of the file in errors, and its text."""
    name, path = os.fspath(name_or_path), Path(name_or_path)
    if name in recipe_names():
        file = resources.files("stellar_hub.training") / "recipes" / f"{name}.yaml"
        return name, file.read_text(encoding="utf-8")
    if not (path.suffix in SUFFIXES or path.exists()):
        hint = did_you_mean(name, recipe_names()) or f"; it is neither a file nor one of {', '.join(recipe_names())}"
        raise ValueError(f"unknown recipe {name!r}{hint}")
    path = path / RUN_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"the recipe {path} does not exist; shipped recipes: {', '.join(recipe_names())}")
    check_limit("config_bytes", path.stat().st_size, f"the recipe {path}")
    try:
        return str(path), path.read_text(encoding="utf-8-sig")  # some editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not text in UTF-8: {error}") from error


def _plain(value: Any) -> Any:
    """Returns a copy of the value with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
