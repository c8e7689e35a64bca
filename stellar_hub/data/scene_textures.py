"""Colours, textures and backgrounds of drawn scenes, with statistics close to those of photographs.

Fields have shape `(height, width)` and colours shape `(3,)`, both float32 with values in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image

_FREQUENT_HUES = (0.07, 0.11, 0.28, 0.57, 0.61)  # skin and wood, sand, leaves, sky, water


def pick_color(rng: np.random.Generator) -> np.ndarray:
    """Picks a colour; muted ones are more common than saturated ones.

    Returns:
        RGB colour of shape `(3,)`, float32 in [0, 1].
    """
    frequent = _FREQUENT_HUES[int(rng.integers(len(_FREQUENT_HUES)))]
    hue = rng.normal(frequent, 0.035) if rng.random() < 0.7 else rng.random()
    saturation = rng.beta(1.6, 2.6)
    value = 0.08 + 0.9 * rng.beta(1.9, 1.6)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)


def vary_color(color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes a second colour that goes with the first: another brightness, sometimes another hue.

    Returns:
        RGB colour of shape `(3,)`, float32 in [0, 1].
    """
    if rng.random() < 0.3:
        return pick_color(rng)
    factor = rng.uniform(0.35, 0.75) if color.mean() > 0.45 else rng.uniform(1.4, 2.4)
    return np.clip(color * factor + rng.normal(0.0, 0.03, size=3), 0.0, 1.0).astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + weight[..., None] * (second - first)


def _enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def noise_field(rng: np.random.Generator, size: int, coarsest: int = 2, num_octaves: int = 5) -> np.ndarray:
    """Draws noise whose amplitude falls with frequency, as in photographs.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.
        coarsest: Cells across the picture in the first octave; each later octave doubles them.
        num_octaves: How many octaves are summed.

    Returns:
        Field of shape `(size, size)`, float32, about zero mean and within [-1, 1] almost everywhere.
    """
    field = np.zeros((1, 1), dtype=np.float32)
    for octave in range(num_octaves):
        cells = min(coarsest * 2**octave + 1, size)
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        field = _enlarge(field, cells) + np.float32(0.38 * 0.55**octave) * grid
    return _enlarge(field, size)


def _wave(phase: np.ndarray, sharpness: float) -> np.ndarray:
    return np.clip(0.5 + sharpness * np.sin(phase), 0.0, 1.0)


def _plain(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.full_like(u, 0.1)


def _gradient(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(0.5 + 0.5 * u, 0.0, 1.0)


def _stripes(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _wave(rng.uniform(5.0, 13.0) * u + rng.uniform(0.0, 6.0), rng.uniform(0.6, 3.0))


def _checks(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frequency = rng.uniform(4.0, 8.0)
    return np.clip(0.5 + 3.0 * np.sin(frequency * u) * np.sin(frequency * v), 0.0, 1.0)


def _dots(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frequency = rng.uniform(6.0, 12.0)
    bumps = np.cos(frequency * u) + np.cos(frequency * v)
    return np.clip(2.5 * (bumps - rng.uniform(0.5, 1.0)), 0.0, 1.0)


def _speckles(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = noise_field(rng, max(u.shape), coarsest=int(rng.integers(2, 6)), num_octaves=4)
    return np.clip(0.5 + noise[: u.shape[0], : u.shape[1]], 0.0, 1.0)


def _rings(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _wave(rng.uniform(9.0, 14.0) * np.hypot(u, v), rng.uniform(1.0, 3.0))


def _zigzag(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    folded = np.abs(np.mod(rng.uniform(1.2, 2.0) * v, 2.0) - 1.0)
    return _wave(rng.uniform(8.0, 12.0) * (u + 0.8 * folded), rng.uniform(1.0, 3.0))


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "speckles": _speckles,
    "rings": _rings,
    "zigzag": _zigzag,
}
_RANDOM_TEXTURES = (_plain, _gradient, _stripes, _checks, _dots, _speckles)


def paint_texture(
    u: np.ndarray, v: np.ndarray, color: np.ndarray, rng: np.random.Generator, name: str | None = None
) -> np.ndarray:
    """Paints a texture in the frame of an object.

    Args:
        u: Rotated coordinate of shape `(height, width)`, about [-1, 1] within the object.
        v: The coordinate at right angles to `u`, same shape.
        color: Main colour of shape `(3,)`.
        rng: Source of randomness.
        name: A member of `TEXTURES`; None picks one of the first six.

    Returns:
        Colours of shape `(height, width, 3)`, float32 in [0, 1].
    """
    texture = _RANDOM_TEXTURES[int(rng.integers(len(_RANDOM_TEXTURES)))] if name is None else TEXTURES[name]
    return _mix(color, vary_color(color, rng), texture(u, v, rng).astype(np.float32))
