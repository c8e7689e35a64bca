"""From decoded pixels of any kind to RGB tensors: PIL images, arrays, tensors."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

from .color_profiles import to_srgb
from .input_checks import check_value_range
from .safe_text import escape_control

logger = logging.getLogger(__name__)

MAX_16_BIT = 65535

_BAND_PIXELS = 2**22  # converted at a time
_said: set[str] = set()  # modes of which it was said that they are dark


@dataclass(frozen=True)
class WideGrey:
    """How the grey values of more than 8 bits of an image are meant.

    Attributes:
        maximum: The value of white, or of black where white is 0.
        white_is_zero: Whether 0 is white.
        transparent: Value of the pixels that are transparent; None if none is.
    """

    maximum: int = MAX_16_BIT
    white_is_zero: bool = False
    transparent: int | None = None

    @classmethod
    def of(cls, image: Image.Image) -> "WideGrey":
        """Reads what the header of an image, opened from a file, says."""
        transparent = image.info.get("transparency")
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(258)
        bits = bits[0] if isinstance(bits, tuple) and bits else bits
        maximum = 2**bits - 1 if isinstance(bits, int) and 8 < bits < 16 else MAX_16_BIT
        return cls(maximum, tags.get(262) == 0, transparent if isinstance(transparent, int) else None)


def pil_to_rgb(
    image: Image.Image,
    name: str = "the image",
    factor: int = 1,
    transform: ImageCms.ImageCmsTransform | None = None,
) -> Tensor:
    """Converts a decoded PIL image of any mode to RGB, `(3, H, W)`, uint8, or float32 for mode F.

    Large images are converted in bands, so that there is no second copy of them in another mode.

    Args:
        image: The image.
        name: Name of the image in errors.
        factor: How many times smaller the result is: squares of this side are averaged.
        transform: How its colours become sRGB; None keeps them.
    """
    wide = WideGrey.of(image)
    _warn_if_dark(image, name)
    rows = max(1, _BAND_PIXELS // (image.width * factor)) * factor
    if rows >= image.height and factor == 1:
        return _band_to_rgb(image, name, wide, transform)
    height, width = -(-image.height // factor), -(-image.width // factor)
    result: Tensor | None = None
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = _averaged(_band_to_rgb(image.crop(box), name, wide, transform), factor)
        if result is None:  # channels last in memory, as a whole image has them
            result = torch.empty(height, width, 3, dtype=band.dtype).permute(2, 0, 1)
        result[:, top // factor : top // factor + band.shape[1]] = band
    assert result is not None
    return result


def _warn_if_dark(image: Image.Image, name: str) -> None:
    """Warns, once in a process, of 32-bit integers that are probably meant as 8 bits, and become nearly black."""
    if image.mode != "I" or _said:
        return
    largest = int(image.getextrema()[1])  # type: ignore[arg-type]  # one band
    if 1 < largest <= 255:
        _said.add("I")
        logger.warning(
            "%s has 32-bit integers up to %d, which are read as 16 bits and become nearly black: if they are meant as "
            "8 bits, convert them, as in Image.fromarray(numpy.asarray(image).astype(numpy.uint8))",
            *(escape_control(name), largest),
        )


def _averaged(pixels: Tensor, factor: int) -> Tensor:
    """Averages squares of pixels, `(3, H, W)`; those at the right and lower edge may be smaller."""
    if factor == 1:
        return pixels
    means = F.avg_pool2d(pixels.float(), factor, ceil_mode=True, count_include_pad=False)
    return means if pixels.is_floating_point() else means.round().to(torch.uint8)


def _band_to_rgb(image: Image.Image, name: str, wide: WideGrey, transform: ImageCms.ImageCmsTransform | None) -> Tensor:
    if image.mode.startswith("I") or image.mode == "F":
        pixels = wide_grey_to_rgb(np.asarray(image), name, wide)
        if transform is None or pixels.is_floating_point():
            return pixels
        image = Image.fromarray(pixels[0].numpy())
    if image.mode == "La":  # grey times alpha: Pillow converts it to grey and alpha alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if transform is not None:
            alpha = image.getchannel("A")
            image = to_srgb(image.convert("RGB"), transform)
            image.putalpha(alpha)
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    elif transform is not None:
        image = to_srgb(image, transform)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def wide_grey_to_rgb(values: np.ndarray, name: str, wide: WideGrey = WideGrey()) -> Tensor:
    """Converts grey values of 16 or 32 bits, or floats, to RGB: integers are read as 16-bit, floats as [0, 1]."""
    if values.dtype.kind == "f":
        return array_to_rgb(1 - values if wide.white_is_zero else values, name)
    if values.min(initial=0) < 0 or values.max(initial=0) > MAX_16_BIT:
        raise ValueError(
            f"{name} has integers from {values.min()} to {values.max()}, allowed are 0 to {MAX_16_BIT}: "
            "convert it to floats in [0, 1] first"
        )
    grey = values.astype(np.uint16)
    if wide.maximum != MAX_16_BIT:
        grey = (np.minimum(grey, wide.maximum).astype(np.uint32) * MAX_16_BIT // wide.maximum).astype(np.uint16)
    if wide.white_is_zero:
        grey = MAX_16_BIT - grey
    if wide.transparent is not None:
        grey[values == wide.transparent] = MAX_16_BIT
    return array_to_rgb(grey, name)


def array_to_rgb(values: np.ndarray | Tensor, name: str = "the image") -> Tensor:
    """Converts an array or tensor, grey or with 1 to 4 channels, to RGB, `(3, H, W)`, uint8 or float32.

    Args:
        values: The image.
        name: Name of the image in errors.

    Raises:
        TypeError: if the values are not uint8, uint16, bool or floating point.
        ValueError: if the shape is not that of an image, or floats are not in [0, 1].
    """
    from_numpy = isinstance(values, np.ndarray)
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    channels_last_first = (-1, 0) if from_numpy else (0, -1)
    tensor = sixteen_to_eight_bits(values) if values.dtype in (np.uint16, torch.uint16) else as_tensor(values)
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim == 3:
        axis = next((axis for axis in channels_last_first if 1 <= shape[axis] <= 4), None)
        if axis is None:
            raise ValueError(f"an image must have 1 to 4 channels in its first or last dimension, got shape {shape}")
        tensor = tensor.movedim(axis, 0)
    else:
        raise ValueError(f"an image must have 2 or 3 dimensions, got shape {shape}; pass a batch as a list")
    if 0 in tensor.shape:
        raise ValueError(f"the image is empty, shape {shape}")
    if tensor.is_floating_point():
        check_value_range(tensor, name)
    return flatten_channels(tensor)


def as_tensor(values: np.ndarray | Tensor) -> Tensor:
    """Returns a tensor of uint8 (bool becomes 0 and 255) or float32 (all floats); other types are refused."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "fbu" or (values.dtype.kind == "u" and values.dtype != np.uint8):
            raise _wrong_type(values.dtype, "values.astype(numpy.uint8)")
        values = torch.from_numpy(np.array(values, dtype=np.float32 if values.dtype.kind == "f" else values.dtype))
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.is_floating_point():
        return values.float()
    if values.dtype != torch.uint8:
        raise _wrong_type(values.dtype, "values.to(torch.uint8)")
    return values


def _wrong_type(dtype: Any, conversion: str) -> TypeError:
    """Returns the error for values of a type that does not say which value is white."""
    return TypeError(
        f"image values must be uint8, uint16, bool or floating point, got {dtype}: if they are from 0 to 255, pass "
        f"{conversion}, or values / 255 as floats in [0, 1]"
    )


def sixteen_to_eight_bits(values: Any) -> Tensor:
    """Scales 0..65535 to 0..255 and rounds."""
    wide = torch.from_numpy(np.asarray(values).astype(np.int32))
    return ((wide * 255 + MAX_16_BIT // 2) // MAX_16_BIT).to(torch.uint8)


def flatten_channels(tensor: Tensor) -> Tensor:
    """Converts 1, 2, 3 or 4 channels to RGB; the second of two and the fourth of four are alpha, put on white."""
    channels = tensor.shape[0]
    color = tensor[:1].expand(3, -1, -1) if channels <= 2 else tensor[:3]
    if channels in (1, 3):
        return color.contiguous()
    white = 255 if tensor.dtype == torch.uint8 else 1
    alpha = tensor[-1:].float() / white
    blended = color.float() * alpha + white * (1 - alpha)
    return blended.round().to(torch.uint8) if tensor.dtype == torch.uint8 else blended
