"""Colour profiles: from Display P3, Adobe RGB, CMYK and other colours to sRGB, which the models were trained on.

A profile that is broken, or that belongs to another kind of image, is ignored: it never costs an image.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# The colour space that a profile is for, and the mode in which its images are converted.
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_NOT_RGB = ("CMYK", "LAB", "HSV", "F")
_SAME_LEVELS = 2  # of 255: a profile that changes colours by at most so much is sRGB itself


def srgb_transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Returns how the colours of an image become sRGB; None if they are sRGB, or no usable profile says otherwise."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) < 128:
        return None
    mode = _MODES.get(profile[16:20])
    fits = {
        "RGB": image.mode not in _NOT_RGB,
        "L": image.mode in _GREY_MODES,
        "CMYK": image.mode == "CMYK",
    }
    return _transform(profile, mode) if mode is not None and fits[mode] else None


def to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Returns an image without alpha as RGB in sRGB."""
    converted = ImageCms.applyTransform(image.convert(transform.input_mode), transform)
    assert converted is not None
    return converted


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform
    except Exception:  # broken: Little CMS or Pillow refuses it
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform keeps a lattice of 4096 colours, or all greys."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    probe = Image.fromarray(lattice) if mode == "RGB" else Image.linear_gradient("L")
    before, after = np.asarray(probe.convert("RGB"), dtype=np.int16), np.asarray(to_srgb(probe, transform))
    return bool(np.abs(before - after).max() <= _SAME_LEVELS)
