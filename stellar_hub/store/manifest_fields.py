"""The fields of a manifest that was read from a file: whether each has the type and the range that it must have."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stellar_hub.modeling.limits import check_limit, max_allowed
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.tensor_format import DTYPES, FLOATS

MAX_DEPTH = 16
MAX_ROWS = 2**53  # a whole number that any reader of JSON keeps exactly
MAX_DIMENSIONS = 4


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file with an object in it, as strictly as the standard says: no NaN, no Infinity.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger than the limit "config_bytes", or is not a JSON object.
    """
    check_limit("config_bytes", path.stat().st_size, one_line(path))
    try:
        with open(path, "rb") as file:
            values = json.loads(file.read(max_allowed("config_bytes")), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    return values


def check_fields(values: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the field, unless the fields of a manifest have the right types and ranges."""
    for name, (is_right, wanted) in _FIELDS.items():
        section, _, key = name.partition(".")
        found = values.get(section)
        if key:
            if not isinstance(found, Mapping):
                raise ValueError(f"{section} must be an object")
            found = found.get(key)
        if not is_right(found):
            raise ValueError(f"{name} must be {wanted}, got {one_line(repr(found), 80)}")
    _check_depth(values)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    for part in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        _check_depth(part, depth + 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_ROWS


def _is_settings(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("decoder", ""), str)


def _is_counts(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping) and set(value) == {"ok", "error"} and all(_is_count(n, 0) for n in value.values())
    )


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list | tuple) and 0 < len(value) <= MAX_DIMENSIONS and all(_is_count(side) for side in value)
    )


def _is_shapes(value: Any) -> bool:
    # Evaluation keeps single numbers, such as the PSNR of each image: their shape is empty.
    shapes = value.values() if isinstance(value, Mapping) else ()
    return len(shapes) > 0 and all(shape == [] or _is_shape(shape) for shape in shapes)


def _is_segment(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and set(value) == {"number", "first_row", "after"}
        and _is_count(value["number"])
        and _is_count(value["first_row"])
        and _is_text(value["after"])
    )


def _is_grid(value: Any) -> bool:
    return _is_shape(value) and len(value) == 2


_COUNT = (_is_count, f"a whole number from 1 to {MAX_ROWS}")
_TEXT = (_is_text, "text")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "library": _TEXT,
    "model.name": _TEXT,
    "model.revision": (_is_text_or_none, "text or null"),
    "model.weights_sha256": _TEXT,
    "model.dtype": (lambda value: value in (*FLOATS, "float64"), f"one of {', '.join(FLOATS)}"),
    "preprocessing.id": _TEXT,
    "preprocessing.settings": (_is_settings, "an object; its decoder, if there is one, is text"),
    "features.shapes": (_is_shapes, "shapes by the names of features"),
    "features.dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "features.batch_size": _COUNT,
    "features.grid_size": (_is_grid, "a height and a width"),
    "source.fingerprint": _TEXT,
    "source.names": (_is_texts, "a list of names"),
    "source.num_images": _COUNT,
    "shard_rows": _COUNT,
    "counts": (_is_counts, "null, or the numbers of rows that are ok and that have an error"),
    "segment": (_is_segment, "null, or the number, the first_row and the after of a segment"),
    "format": (lambda value: _is_count(value), "a whole number"),
}
