"""Reading images of every common kind as RGB tensors: paths, PIL images, arrays, tensors."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .input_checks import check_value_range

ImageInput = str | os.PathLike | Image.Image | np.ndarray | Tensor

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
MAX_16_BIT = 65535
ORIENTATION_TAG = 0x0112  # EXIF
SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)  # values of the tag for images whose height and width change places


def load_rgb(source: ImageInput) -> Tensor:
    """Reads any image as RGB, `(3, H, W)`, uint8 or, if the source holds floats, float32 in [0, 1].

    EXIF orientation is applied. Grey, palette and CMYK images become RGB. Alpha is composited on white. 16 bits are
    scaled to 8.

    Args:
        source: A path, a PIL image, an array `(H, W)` or `(H, W, C)`, or a tensor `(H, W)` or `(C, H, W)`. `C` is 1,
            2 (grey and alpha), 3 or 4; if only the other order of dimensions fits, that order is used.

    Raises:
        FileNotFoundError: if the path does not exist.
        TypeError: if the source is of another type, or holds values of another type.
        ValueError: if the file cannot be read as an image (it is named), or shape or values do not fit.
    """
    if isinstance(source, str | os.PathLike):
        return pil_to_rgb(open_image(source), name=str(source))
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "the image")
        return pil_to_rgb(decode_image(source, name), name)
    if isinstance(source, np.ndarray | Tensor):
        return array_to_rgb(source)
    raise TypeError(f"an image must be a path, a PIL image, an array or a tensor, got {type(source).__name__}")


def open_image(path: str | os.PathLike) -> Image.Image:
    """Reads an image file completely and applies its EXIF orientation.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read as an image: it is damaged, cut short, too large, or of another kind.
    """
    if not Path(path).is_file():
        kind = " (it is a folder)" if Path(path).is_dir() else ""
        raise FileNotFoundError(f"no such image file: {path}{kind}")
    try:
        image = Image.open(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    with image:
        return decode_image(image, str(path))


def decode_image(image: Image.Image, name: str) -> Image.Image:
    """Decodes an image that may only have been opened, and applies its EXIF orientation.

    Args:
        image: The image.
        name: Name of the image in errors.

    Raises:
        ValueError: if it cannot be decoded.
    """
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except UNREADABLE as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error


def upright_size(image: Image.Image, name: str = "the image") -> tuple[int, int]:
    """Returns an image's height and width after its EXIF orientation is applied, without decoding it.

    Args:
        image: An image that was opened with `Image.open`.
        name: Name of the image in errors.

    Raises:
        ValueError: if its header cannot be read.
    """
    try:
        sideways = image.getexif().get(ORIENTATION_TAG) in SIDEWAYS_ORIENTATIONS
    except UNREADABLE as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def pil_to_rgb(image: Image.Image, name: str = "the image") -> Tensor:
    """Converts a decoded PIL image of any mode to RGB, `(3, H, W)`, uint8, or float32 for mode F."""
    if image.mode.startswith("I") or image.mode == "F":
        return wide_grey_to_rgb(np.asarray(image), name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def wide_grey_to_rgb(values: np.ndarray, name: str) -> Tensor:
    """Converts grey values of 16 or 32 bits, or floats, to RGB: integers are read as 16-bit, floats as [0, 1]."""
    if values.dtype.kind == "f":
        return array_to_rgb(values, name)
    if values.min(initial=0) < 0 or values.max(initial=0) > MAX_16_BIT:
        raise ValueError(
            f"{name} has integers from {values.min()} to {values.max()}, allowed are 0 to {MAX_16_BIT}: "
            "convert it to floats in [0, 1] first"
        )
    return array_to_rgb(values.astype(np.uint16), name)


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
            raise TypeError(f"image values must be uint8, uint16, bool or floating point, got {values.dtype}")
        values = torch.from_numpy(np.array(values, dtype=np.float32 if values.dtype.kind == "f" else values.dtype))
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.is_floating_point():
        return values.float()
    if values.dtype != torch.uint8:
        raise TypeError(f"image values must be uint8, uint16, bool or floating point, got {values.dtype}")
    return values


def sixteen_to_eight_bits(values: Any) -> Tensor:
    """Scales 0..65535 to 0..255 and rounds."""
    wide = torch.from_numpy(np.asarray(values).astype(np.int64))
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
