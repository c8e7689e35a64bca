"""Keys of a recipe as people write them on the command line, and the values that go there."""

import copy
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stellar_hub.data.strict_settings import MAX_SHOWN, check_value, shown
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import hint_of_new_name, old_names
from stellar_hub.training.recipes.sections import SECTIONS, config_fields, section_keys
from stellar_hub.training.recipes.suggestions import suggestion

Key = tuple[str, ...]  # the way through the nested mappings: ("model", "config", "mask_ratio")

EPOCHS, STEPS = ("optimization", "epochs"), ("optimization", "steps")
OTHER_LENGTH: dict[Key, Key] = {EPOCHS: STEPS, STEPS: EPOCHS}


def replace_values(values: Mapping[str, Any], replaced: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a copy of a recipe's nested values with some of them replaced.

    Args:
        values: Nested dictionaries.
        replaced: Keys and values: "optimization.learning_rate", "learning_rate" (where only one section has the key),
            "model.config.mask_ratio". Later ones win. `epochs` sets `steps` to null, and `steps` sets `epochs` to null.

    Raises:
        ValueError: if a key is unknown, of an earlier release or in several sections.
    """
    result: dict[str, Any] = copy.deepcopy(dict(values))
    given = {_resolve(name): value for name, value in replaced}
    for key, value in given.items():
        other = OTHER_LENGTH.get(key)
        if value is not None and other and given.get(other) is None:
            _assign(result, other, None)
        _assign(result, key, value)
    return result


def described_keys() -> dict[str, str]:
    """Returns all keys that `--set` takes, such as "optimization.learning_rate", each with a sentence on its value.

    The sentences are those of the docstrings of the sections and of `StellarConfig`.
    """
    found = {
        f"{name}.{key}": words for name, section in SECTIONS.items() for key, words in _attributes_of(section).items()
    }
    words_of_fields = _attributes_of(StellarConfig)
    return found | {f"model.config.{field}": words_of_fields[field] for field in config_fields()}


def _attributes_of(described: type) -> dict[str, str]:
    """Returns what the docstring of a class says of each of its attributes, on one line, with YAML's word for None."""
    listed = re.split(r"(?m)^(?:Args|Attributes):$", inspect.getdoc(described) or "")[-1]
    listed = re.split(r"(?m)^\S", listed)[0]
    entries = re.findall(r"(?m)^    (\w+): (.*(?:\n {5,}.*)*)", listed)
    return {name: re.sub(r"\bNone\b", "null", " ".join(words.split())) for name, words in entries}


def _assign(values: dict[str, Any], key: Key, value: Any) -> None:
    for depth, part in enumerate(key[:-1], start=1):
        values = values.setdefault(part, {})
        check_value(isinstance(values, dict), ".".join(key[:depth]), values, "a mapping of keys to values")
    values[key[-1]] = value


def _resolve(name: str) -> Key:
    """Returns the place of "learning_rate", "optimization.learning_rate" or "model.config.mask_ratio" in a recipe."""
    known = [".".join(key) for key in _all_keys()]
    candidates = _with_ending(name, known)
    if len(candidates) == 1:
        return tuple(candidates[0].split("."))
    if candidates:
        raise ValueError(f"the override of {shown(name)} could mean {' or '.join(candidates)}; write which")
    old = _with_ending(name, list(old_names("recipe_keys")))
    same_key = _with_ending(name.rpartition(".")[2], known)
    hint = hint_of_new_name("recipe_keys", old[0]) if old else ""
    hint = hint or (f"; did you mean {' or '.join(map(repr, same_key))}?" if same_key else suggestion(name, known))
    hint = hint or f"; write section.key, where the sections are {', '.join(SECTIONS)}"
    raise ValueError(f"unknown key {one_line(name, MAX_SHOWN)} in an override{hint}")


def _with_ending(name: str, keys: list[str]) -> list[str]:
    """Returns the key itself where it is one of the keys, and else those that end in `.name`."""
    return [key for key in keys if key == name] or [key for key in keys if key.endswith(f".{name}")]


def _all_keys() -> Iterator[Key]:
    for name, section in SECTIONS.items():
        yield from ((name, key) for key in section_keys(section))
    yield from (("model", "config", field) for field in config_fields())
