"""Checks of the settings that people write: frozen dataclasses that are strict about types and ranges."""

import contextlib
import dataclasses
import math
import types
import typing
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassFieldValidationError

from stellar_hub.modeling.safe_text import mask_secrets, one_line

MAX_SHOWN = 200  # characters of a value in an error
MAX_WHOLE_NUMBER = 2**63 - 1  # what tensors and files hold

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", dict: "a mapping"}


def check_value(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ValueError unless `condition` holds; the message has the key, the allowed values and the value seen."""
    if not condition:
        raise ValueError(f"{key} must be {allowed}, got {shown(value)}")


def shown(value: object) -> str:
    """Returns a value as errors show it: on one line, cut to a length, and without passwords in addresses."""
    try:
        return one_line(mask_secrets(repr(value)), MAX_SHOWN)
    except ValueError:  # Python writes out numbers of at most 4300 digits
        return "a number of more than 4300 digits"


def check_probability(key: str, value: float) -> None:
    """Raises ValueError unless `value` is within [0, 1]."""
    check_value(0 <= value <= 1, key, value, "within [0, 1]")


def fit_fields(settings: Any) -> None:
    """Checks each field of a frozen dataclass that is `strict`, and brings it to its annotated type.

    A list becomes a tuple, and an int becomes a float, where the annotation says so. Call it in `__post_init__`.

    Args:
        settings: Instance of a class with both decorators, `strict` (of `huggingface_hub.dataclasses`) on top.

    Raises:
        ValueError: if a value has another type, is not finite, or is a whole number of more than 64 bits; the message
            begins with the field's name.
    """
    for field in dataclasses.fields(settings):
        given = getattr(settings, field.name)
        # YAML has lists and writes 1 for 1.0; `strict` converts neither.
        value = _converted(given, field.type)
        object.__setattr__(settings, field.name, value)  # `dataclasses` itself sets frozen fields so
        try:
            # `strict` checks what is assigned, and a frozen dataclass never assigns. So do it here: `strict` checks the
            # value first, and `frozen` refuses the assignment afterwards.
            with contextlib.suppress(dataclasses.FrozenInstanceError):
                setattr(settings, field.name, value)
        except StrictDataclassFieldValidationError as error:
            raise ValueError(f"{field.name} must be {_in_words(field.type)}, got {shown(given)}") from error
        numbers = value if isinstance(value, tuple) else (value,)
        finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
        check_value(finite, field.name, given, "finite")
        small = all(abs(number) <= MAX_WHOLE_NUMBER for number in numbers if isinstance(number, int))
        check_value(small, field.name, given, "a whole number of at most 64 bits")


def _converted(value: Any, annotation: Any) -> Any:
    """Returns the value with its lists as tuples and its ints as floats, where the annotation says so."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType and value is not None:  # settings use `X | None` only
        return _converted(value, arguments[0])
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_converted(item, kind) for item, kind in zip(value, kinds, strict=True))
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= 2**1023 else math.inf
    return dict(value) if isinstance(value, dict) else value


def _in_words(annotation: Any) -> str:
    """Returns what an annotation allows, such as "a whole number, or null"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        return f"{_in_words(arguments[0])}, or null"
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
        return f"a list{count}, each item {_in_words(arguments[0])}"
    return _WORDS[origin or annotation]
