"""Checks of a recipe's values: types as annotated, and errors that say key, value and what is allowed."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", dict: "a mapping"}


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raise a `ValueError` unless `condition` holds, saying that `key` must be `allowed` and what it is."""
    if not condition:
        raise ValueError(f"{key} must be {allowed}, got {value!r}")


def require_probability(key: str, value: float) -> None:
    """`value` is within [0, 1]."""
    require(0 <= value <= 1, key, value, "within [0, 1]")


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The question for an error's end, "; did you mean 'a' or 'b'?", or "" if no allowed name is close."""
    close = difflib.get_close_matches(name, list(allowed), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def refuse_unknown(names: Iterable[object], allowed: Iterable[str], prefix: str) -> None:
    """Every one of `names` is among `allowed`.

    Raises:
        ValueError: naming the first that is not as `prefix` + name, with the closest allowed ones.
    """
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            hint = did_you_mean(str(name), allowed) or f"; known: {', '.join(allowed)}"
            raise ValueError(f"unknown key {prefix}{name}{hint}")


def fit_annotations(section: Any, name: str) -> None:
    """Check each field of a frozen dataclass against its annotation, and store it in its annotated type.

    Numbers become floats and lists tuples where the annotation says so; nothing else is converted.

    Raises:
        ValueError: if a value has another type; it is named "name.field".
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = _fit(f"{name}.{field.name}", getattr(section, field.name), hints[field.name])
        object.__setattr__(section, field.name, value)  # the way past `frozen` that dataclasses use themselves


def _fit(key: str, value: Any, annotation: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):  # only `X | None` is used
        return None if value is None else _fit(key, value, arguments[0])
    if origin is Literal:
        require(isinstance(value, str) and value in arguments, key, value, f"one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        return _fit_sequence(key, value, arguments)
    return _fit_scalar(key, value, origin or annotation)


def _fit_sequence(key: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    any_length = arguments[-1] is Ellipsis
    allowed = "a list, written [a, b]" if any_length else f"a list of {len(arguments)}"
    require(isinstance(value, list | tuple) and (any_length or len(value) == len(arguments)), key, value, allowed)
    annotations = [arguments[0]] * len(value) if any_length else arguments
    return tuple(
        _fit(f"{key}[{index}]", item, annotation)
        for index, (item, annotation) in enumerate(zip(value, annotations, strict=True))
    )


def _fit_scalar(key: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    require(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), key, value, NAMES[kind])
    if kind is float:
        require(math.isfinite(value), key, value, "finite")
    return dict(value) if kind is dict else value
