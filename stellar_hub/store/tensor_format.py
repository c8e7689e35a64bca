"""How features lie in a shard: as floats, or as integers with scales."""

from collections.abc import Mapping

import torch
from torch import Tensor

MOST = {torch.int8: 127, torch.uint8: 255}


def quantize_rows(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Quantize each row of the last dimension by its own largest magnitude.

    Args:
        values: Floats `(..., d)`; for uint8 none below 0.
        dtype: `torch.int8` or `torch.uint8`.

    Returns:
        The values as integers, `(..., d)`, and the rows' scales, `(...)` float16: the error is at most half a scale
        (and float16's own rounding). Rows that are NaN get the scale NaN, and come back as NaN.
    """
    most = MOST[dtype]
    values = values.float()
    # Values are divided by the scale as it will be stored, so that its rounding makes no error of its own.
    scale = (values.abs().amax(dim=-1) / most).half()
    divisor = torch.where(scale > 0, scale.float(), 1.0)[..., None]
    least = -most if dtype == torch.int8 else 0
    return (values / divisor).round().nan_to_num(0).clamp(least, most).to(dtype), scale


def dequantize_rows(quantized: Tensor, scale: Tensor) -> Tensor:
    """The values `(..., d)`, float32, of what `quantize_rows` gave."""
    return quantized.float() * scale.float()[..., None]


FLOATS = ("float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "int8")
QUANTIZED = {"S": torch.int8, "L": torch.uint8}  # under "int8"; all else is float16 there
SCALE = ".scale"


def check_dtype(dtype: str) -> str:
    """Refuse a dtype that no store has.

    Raises:
        ValueError: naming those there are.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return dtype


def computed_dtype(dtype: str) -> torch.dtype:
    """What features have to come in to be stored as `dtype`: integers are made from float32."""
    return torch.float32 if dtype == "int8" else getattr(torch, dtype)


def to_stored(features: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Features by name to the tensors of a shard.

    Under "int8", `S` `(B, r, d)` becomes int8 with "S.scale" `(B, r)`, and `L` `(B, n, r)` uint8 with "L.scale"
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


def from_stored(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """A feature as floats: as it lies there, or float32 where it was quantized."""
    return tensor if scale is None else dequantize_rows(tensor, scale)
