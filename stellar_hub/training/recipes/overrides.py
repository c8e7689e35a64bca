"""Values of a recipe replaced on the command line: "section.key=value"."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stellar_hub.training.recipes.checks import did_you_mean, require
from stellar_hub.training.recipes.sections import SECTIONS, config_fields, section_keys
from stellar_hub.training.recipes.yaml_text import read_yaml

Key = tuple[str, ...]  # the way through the nested mappings: ("model", "config", "mask_ratio")

EPOCHS, STEPS = ("optimization", "epochs"), ("optimization", "steps")
OTHER_LENGTH: dict[Key, Key] = {EPOCHS: STEPS, STEPS: EPOCHS}


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested `values` with "section.key=value" applied.

    Values are written as in YAML: "optimization.learning_rate=1e-4", "model.config.mask_ratio=0.6",
    "data.sources=[a, b]". The section may be left out where only one place has such a key. Later ones win; giving one
    of `epochs` and `steps` sets the other to null.

    Raises:
        ValueError: if an override is no "key=value", its value no YAML, or its key unknown or in several sections.
    """
    require(isinstance(values, Mapping), "a recipe", values, f"a mapping with the sections {', '.join(SECTIONS)}")
    result: dict[str, Any] = copy.deepcopy(dict(values))
    given = dict(_parse(override) for override in overrides)
    for key, value in given.items():
        other = OTHER_LENGTH.get(key)
        if value is not None and other and given.get(other) is None:
            _assign(result, other, None)
        _assign(result, key, value)
    return result


def _assign(values: dict[str, Any], key: Key, value: Any) -> None:
    for depth, part in enumerate(key[:-1], start=1):
        values = values.setdefault(part, {})
        require(isinstance(values, dict), ".".join(key[:depth]), values, "a mapping of keys to values")
    values[key[-1]] = value


def _parse(override: str) -> tuple[Key, Any]:
    name, equals, text = override.partition("=")
    require(bool(equals and name.strip()), "an override", override, 'written "section.key=value"')
    return _resolve(name.strip()), read_yaml(text, f"override {override!r}")


def _resolve(name: str) -> Key:
    """Where "learning_rate", "optimization.learning_rate" or "model.config.mask_ratio" is in a recipe."""
    known = [".".join(key) for key in _all_keys()]
    candidates = [key for key in known if key == name] or [key for key in known if key.endswith(f".{name}")]
    if len(candidates) == 1:
        return tuple(candidates[0].split("."))
    if candidates:
        raise ValueError(f"the override of {name!r} could mean {' or '.join(candidates)}; write which")
    last = name.rpartition(".")[2]
    same_key = [key for key in known if key.rpartition(".")[2] == last]
    hint = f"; did you mean {' or '.join(map(repr, same_key))}?" if same_key else did_you_mean(name, known)
    hint = hint or f"; it is written section.key, and the sections are {', '.join(SECTIONS)}"
    raise ValueError(f"unknown key {name} in an override{hint}")


def _all_keys() -> Iterator[Key]:
    for name, section in SECTIONS.items():
        yield from ((name, key) for key in section_keys(section))
    yield from (("model", "config", field) for field in config_fields())
