"""The stored form of features: floats, or integers with scales."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MAX_VALUE = {torch.int8: 127, torch.uint8: 255}


def quantize_rows(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantizes each row of the last dimension by its own largest magnitude.

    Args:
        values: Floats `(..., d)`; for uint8, all are at least 0.
        dtype: `torch.int8` or `torch.uint8`.

    Returns:
        The values as integers, `(..., d)`, and the scales of the rows, `(...)` float16. The error of a value is at most
        half a scale, plus the rounding of float16. Rows that are NaN get the scale NaN, and come back as NaN.
    """
    largest = MAX_VALUE[dtype]
    values = values.float()
    # The divisor is the scale as it is stored, so that the rounding of the scale adds no error.
    scale = (values.abs().amax(dim=-1) / largest).half()
    divisor = torch.where(scale > 0, scale.float(), 1.0)[..., None]
    smallest = -largest if dtype == torch.int8 else 0
    return (values / divisor).round().nan_to_num(0).clamp(smallest, largest).to(dtype), scale


def dequantize_rows(quantized: Tensor, scale: Tensor) -> Tensor:
    """Returns the values `(..., d)`, float32, that `quantize_rows` quantized."""
    return quantized.float() * scale.float()[..., None]


FLOATS = ("float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "int8")
QUANTIZED = {"S": torch.int8, "L": torch.uint8}  # by "int8"; it stores all other features as float16
SCALE = ".scale"
_SPELLED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8"}  # in safetensors


def check_dtype(dtype: str) -> str:
    """Returns the name of a stored type.

    Raises:
        ValueError: if the type does not exist.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return dtype


def computed_dtype(dtype: str) -> torch.dtype:
    """Returns the dtype to compute features in that are stored as `dtype`: float32 for integers."""
    return torch.float32 if dtype == "int8" else getattr(torch, dtype)


def to_stored(features: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Returns the tensors of a shard for features by name.

    With "int8", `S` `(B, r, d)` becomes int8 with "S.scale" `(B, r)`, and `L` `(B, n, r)` uint8 with "L.scale"
    `(B, n)`.
    """
    if dtype != "int8":
        return {name: tensor.to(getattr(torch, dtype)) for name, tensor in features.items()}
    stored = {}
    for name, tensor in features.items():
        if name in QUANTIZED:
            stored[name], stored[name + SCALE] = quantize_rows(tensor, QUANTIZED[name])
        else:
            stored[name] = tensor.half()
    return stored


def stored_layout(shapes: Mapping[str, Sequence[int]], dtype: str) -> dict[str, tuple[list[int], str]]:
    """Returns the tensors of a shard: the shape of one row and the type in safetensors' spelling, by name.

    Args:
        shapes: Shapes of one row by the names of features.
        dtype: Type of the stored features.
    """
    layout: dict[str, tuple[list[int], str]] = {}
    for name, shape in shapes.items():
        if dtype != "int8":
            layout[name] = (list(shape), _SPELLED[dtype])
        elif name in QUANTIZED:
            layout[name] = (list(shape), _SPELLED[str(QUANTIZED[name]).removeprefix("torch.")])
            layout[name + SCALE] = (list(shape[:-1]), _SPELLED["float16"])
        else:
            layout[name] = (list(shape), _SPELLED["float16"])
    return layout


def from_stored(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """Returns a stored feature as floats: as it is, or as float32 if it was quantized."""
    return tensor if scale is None else dequantize_rows(tensor, scale)
