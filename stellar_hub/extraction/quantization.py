"""Eight bits for a value, and a scale for each row: `S` as int8, `L` as uint8."""

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
