"""Colours, textures and backgrounds of drawn scenes, with statistics close to those of photographs.

A field is `(height, width)` and a colour `(3,)`, both float32 in [0, 1].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache

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
    """Picks a second colour for a first one: another brightness, sometimes another hue.

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
    """Draws noise whose amplitude falls with the frequency, as in photographs.

    Args:
        rng: Generator of all draws.
        size: Height and width in pixels.
        coarsest: Number of cells across the image in the first octave. Each later octave doubles it.
        num_octaves: Number of octaves that are summed.

    Returns:
        Field of shape `(size, size)`, float32, with a mean near 0 and almost all values within [-1, 1].
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
    """Paints a texture in the coordinates of an object.

    Args:
        u: Rotated coordinate of shape `(height, width)`, about [-1, 1] within the object.
        v: Coordinate at right angles to `u`, `(height, width)`.
        color: Main colour of shape `(3,)`.
        rng: Generator of all draws.
        name: A member of `TEXTURES`. None: one of the first six at random.

    Returns:
        Colours of shape `(height, width, 3)`, float32 in [0, 1].
    """
    texture = _RANDOM_TEXTURES[int(rng.integers(len(_RANDOM_TEXTURES)))] if name is None else TEXTURES[name]
    return _mix(color, vary_color(color, rng), texture(u, v, rng).astype(np.float32))


@lru_cache(maxsize=8)
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of pixel centres.

    Returns:
        Rows of shape `(size, 1)` and columns of shape `(1, size)`, float32 in (0, 1).
    """
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    return steps[:, None], steps[None, :]


def _pick_calm_color(rng: np.random.Generator) -> np.ndarray:
    """Picks a colour for a large area: closer to grey and not very dark."""
    color = pick_color(rng)
    return 0.08 + 0.9 * (color.mean() + rng.uniform(0.4, 0.9) * (color - color.mean())).astype(np.float32)


def _gradient_background(rng: np.random.Generator, size: int) -> np.ndarray:
    color = _pick_calm_color(rng)
    corners = np.stack([color, vary_color(color, rng), color, vary_color(color, rng)])
    corners = np.clip(corners + rng.normal(0.0, 0.06, corners.shape), 0.0, 1.0)
    small = Image.fromarray((255.0 * rng.permutation(corners).reshape(2, 2, 3)).astype(np.uint8))
    smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    return smooth + 0.06 * noise_field(rng, size, coarsest=4)[..., None]


def _landscape_background(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, _ = pixel_grid(size)
    noise = noise_field(rng, size, coarsest=3)
    high, near = _pick_calm_color(rng) ** np.float32(0.7), _pick_calm_color(rng)  # a sky is bright
    low = 1.0 - np.float32(rng.uniform(0.3, 0.9)) * (1.0 - high)  # haze at the horizon
    sky = high + (1.3 * rows * (1.0 - 0.3 * noise))[..., None] * (low - high)
    level = rng.uniform(0.35, 0.75) + 0.12 * noise[size // 2]  # (size,)
    depth = rows - level  # (size, size), positive below the horizon
    rough = noise_field(rng, size, coarsest=9, num_octaves=4)
    ground = near * (0.7 + 0.4 * rows + rng.uniform(0.1, 0.4) * rough * (0.4 + rows))[..., None]
    return sky + np.clip(0.5 + 0.5 * size * depth, 0.0, 1.0)[..., None] * (ground - sky)


def _clouds_background(rng: np.random.Generator, size: int) -> np.ndarray:
    color = _pick_calm_color(rng)
    noise = noise_field(rng, size, coarsest=int(rng.integers(1, 6)), num_octaves=int(rng.integers(2, 6)))
    weight = np.clip(0.5 + 0.8 * noise, 0.0, 1.0)
    return color + weight[..., None] * (vary_color(color, rng) - color)


def _stripes_background(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = pixel_grid(size)
    angle, noise = rng.uniform(0.0, np.pi), noise_field(rng, size)
    phase = rng.uniform(12.0, 45.0) * (np.cos(angle) * rows + np.sin(angle) * columns) + 0.8 * noise
    color = _pick_calm_color(rng)
    weight = 0.7 * np.clip(0.5 + rng.uniform(0.4, 1.5) * np.sin(phase), 0.0, 1.0) + 0.2 * noise
    return color + weight[..., None] * (vary_color(color, rng) - color)


_BACKGROUNDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _gradient_background,
    _landscape_background,
    _clouds_background,
    _stripes_background,
)


def paint_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paints a random background.

    Args:
        rng: Generator of all draws.
        size: Height and width in pixels.

    Returns:
        Colours of shape `(size, size, 3)`, float32 in [0, 1].
    """
    kind = rng.choice(len(_BACKGROUNDS), p=(0.3, 0.35, 0.22, 0.13))
    return np.clip(_BACKGROUNDS[int(kind)](rng, size), 0.0, 1.0).astype(np.float32)
