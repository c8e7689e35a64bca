"""JPEGs of every kind."""

import io
from typing import Any

import numpy as np
from PIL import Image


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG of 30 x 40 pixels of noise; the options are those of Pillow."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    """A block of EXIF with this orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()
