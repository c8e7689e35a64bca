"""From the body of a request to encodings (S, L) that can be decoded: safetensors, or lists in JSON."""

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.input_checks import check_encoding, resolve_grid_size
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.outputs import read_encoding
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.serving.bodies import Body, check_keys, parse_json
from stellar_hub.serving.images import names_of
from stellar_hub.serving.settings import check_patches

MAX_PARTS = 2**22  # numbers in JSON, each of which takes 32 bytes or more when it is parsed

# What an answer to a request to encode has: it can be sent back as it is.
_AROUND = ("data", "model", "object")
_OF_IMAGE = ("S", "L", "grid_size", "index", "name", "object", "pooled", "cls", "patches")


def read_codes(body: Body, hidden_size: int) -> list[StellarEncoding]:
    """Returns the encodings in a body, each a batch of one, float32, with its grid.

    Args:
        body: JSON with `S`, `L` and `grid_size`, or with a list `data` of such objects; or a file of safetensors as
            `StellarEncoding.save` writes it.
        hidden_size: Width `d` of the model.

    Raises:
        ValueError: if values are not finite, or shapes do not fit each other, the grid, the model or the limits.
        TypeError: if values are no floating-point numbers.
    """
    if body.is_form:
        raise ValueError("codes are sent as safetensors or JSON, not as a form")
    if not body.is_json:
        size = int.from_bytes(body.data[:8], "little")  # of a file's header
        if body.data[:1] == b"{" and size > len(body.data):
            raise ValueError("the body looks like JSON: send it with Content-Type: application/json")
        return _checked([_from_file(body.data)], ["the body"], hidden_size)
    value = parse_json(body, MAX_PARTS)
    if "data" not in value:
        return _checked([_from_object(value, "the body")], ["the body"], hidden_size)
    check_keys(value, _AROUND)
    items = value["data"]
    if not isinstance(items, list) or not items:
        raise ValueError("data must be a list of objects with S, L and grid_size")
    check_limit("request_images", len(items), "the request")
    names = names_of(items)
    return _checked([_from_object(item, name) for item, name in zip(items, names, strict=True)], names, hidden_size)


def _from_file(data: bytes) -> StellarEncoding:
    with tempfile.NamedTemporaryFile(prefix="stellar-hub-serve-", suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return StellarEncoding(*read_encoding(file.name, "the body"))


def _from_object(value: Any, name: str) -> StellarEncoding:
    if not isinstance(value, dict) or "S" not in value or "L" not in value:
        raise ValueError(f"{name} must be an object with S (r, d), L (n, r) and grid_size [h, w]")
    check_keys(value, _OF_IMAGE)
    return StellarEncoding(_matrix(value, "S", name), _matrix(value, "L", name), _grid(value.get("grid_size"), name))


def _matrix(value: Mapping[str, Any], key: str, name: str) -> Tensor:
    """Returns a matrix of numbers as a batch of one, `(1, rows, columns)` float32."""
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused later
            found = np.asarray(value[key], dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: {key} is no matrix of numbers ({one_line(error, 100)})") from None
    if found.ndim != 2:
        raise ValueError(f"{name}: {key} must be a list of lists of numbers, got {found.ndim} dimensions")
    return torch.from_numpy(found)[None]


def _grid(value: Any, name: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value):
        return value[0], value[1]
    raise ValueError(f"{name}: grid_size must be [h, w], got {one_line(repr(value), 60)}")


def _checked(encodings: list[StellarEncoding], names: list[str], hidden_size: int) -> list[StellarEncoding]:
    """Returns encodings as batches of one, after they were checked against the model and the limits."""
    single = []
    for encoding, name in zip(encodings, names, strict=True):
        semantics, localization = encoding
        try:
            check_encoding(semantics, localization, hidden_size)
            check_limit("request_images", len(semantics), "the request")
            patches = int(localization.shape[1])
            check_patches(patches, name)
            grid = resolve_grid_size(patches, encoding.grid_size)
            semantics, localization = semantics.float(), localization.float()
            for field, tensor in (("S", semantics), ("L", localization)):
                if not bool(torch.isfinite(tensor).all()):
                    raise ValueError(f"{field} has values that are NaN or infinite as float32")
        except (ValueError, TypeError) as error:
            text = str(error)
            raise ValueError(text if text.startswith(name) else f"{name}: {text}") from error
        whole = StellarEncoding(semantics, localization, grid)
        single += [whole.select(index) for index in range(len(semantics))]
    return single
