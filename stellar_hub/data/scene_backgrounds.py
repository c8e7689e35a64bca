"""Backgrounds of drawn scenes: gradients, land under a sky, clouds of noise, stripes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from stellar_hub.data.scene_textures import noise_field, pick_color, vary_color


@lru_cache(maxsize=8)
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives the positions of pixel centres.

    Returns:
        Rows of shape `(size, 1)` and columns of shape `(1, size)`, float32 in (0, 1).
    """
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    return steps[:, None], steps[None, :]


def _pick_calm_color(rng: np.random.Generator) -> np.ndarray:
    """Picks a colour for a large area: closer to grey, and not very dark."""
    color = pick_color(rng)
    return 0.08 + 0.9 * (color.mean() + rng.uniform(0.4, 0.9) * (color - color.mean())).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    color = _pick_calm_color(rng)
    corners = np.stack([color, vary_color(color, rng), color, vary_color(color, rng)])
    corners = np.clip(corners + rng.normal(0.0, 0.06, corners.shape), 0.0, 1.0)
    small = Image.fromarray((255.0 * rng.permutation(corners).reshape(2, 2, 3)).astype(np.uint8))
    smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    return smooth + 0.06 * noise_field(rng, size, coarsest=4)[..., None]


def _landscape(rng: np.random.Generator, size: int) -> np.ndarray:
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


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    color = _pick_calm_color(rng)
    noise = noise_field(rng, size, coarsest=int(rng.integers(1, 6)), num_octaves=int(rng.integers(2, 6)))
    weight = np.clip(0.5 + 0.8 * noise, 0.0, 1.0)
    return color + weight[..., None] * (vary_color(color, rng) - color)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = pixel_grid(size)
    angle, noise = rng.uniform(0.0, np.pi), noise_field(rng, size)
    phase = rng.uniform(12.0, 45.0) * (np.cos(angle) * rows + np.sin(angle) * columns) + 0.8 * noise
    color = _pick_calm_color(rng)
    weight = 0.7 * np.clip(0.5 + rng.uniform(0.4, 1.5) * np.sin(phase), 0.0, 1.0) + 0.2 * noise
    return color + weight[..., None] * (vary_color(color, rng) - color)


_BACKGROUNDS: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _gradient,
    _landscape,
    _clouds,
    _stripes,
)


def paint_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paints a random background.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.

    Returns:
        Colours of shape `(size, size, 3)`, float32 in [0, 1].
    """
    kind = rng.choice(len(_BACKGROUNDS), p=(0.3, 0.35, 0.22, 0.13))
    return np.clip(_BACKGROUNDS[int(kind)](rng, size), 0.0, 1.0).astype(np.float32)
