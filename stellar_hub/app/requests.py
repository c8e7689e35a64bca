"""What the browser sends, checked: numbers, keys, and the paths of uploads. Anybody may send anything."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stellar_hub.app.parts import gradio
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line

MAX_KEY = 200  # characters


def numbers_of(data: Any, *names: str) -> list[float]:
    """Returns finite numbers of an event.

    Args:
        data: Data of the event.
        names: Names of the numbers.

    Raises:
        ValueError: if one is missing or is not a finite number.
    """
    values = [_of(data, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {one_line(repr(value), 40)}")
    return [float(value) for value in values]


def key_of(data: Any) -> str:
    """Returns the key of the button that was pressed.

    Raises:
        ValueError: if it is missing or is no short text.
    """
    key = _of(data, "key")
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise ValueError(f"key must be a short text, got {one_line(repr(key), 40)}")
    return key


def uploaded_path(data: Any) -> Path:
    """Returns the path of an upload, which is always a file in the folder of uploads.

    Args:
        data: Data of the event: "name" of the file, and "file", its path here, or "size" if it is too large.

    Raises:
        ValueError: if the upload failed, is too large, or the path leads elsewhere.
    """
    name, size, path = (_of(data, key) for key in ("name", "size", "file"))
    shown = one_line(name, 80) if isinstance(name, str) else "the file"
    if isinstance(size, int | float):
        check_limit("image_bytes", int(min(size, 1e18)), shown)
    if not isinstance(path, str):
        raise ValueError(f"{shown} could not be uploaded: try it again")
    folder = os.path.realpath(gradio().utils.get_upload_folder())
    real = os.path.realpath(path) if "\0" not in path else ""
    if os.path.dirname(os.path.dirname(real)) != folder or not os.path.isfile(real):
        raise ValueError(f"{shown} is not there any more: upload it again")
    return Path(real)


def _of(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, Mapping) else None
