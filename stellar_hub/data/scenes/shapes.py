"""Outlines and antialiased coverage of the shapes in drawn scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

# Polygons `(num_points, 2)` of (x, y): the first is filled, the others are cut out of it.
Outline = list[np.ndarray]


def _round(radius: float = 1.0, height: float = 1.0, shift: float = 0.0) -> np.ndarray:
    angles = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
    return np.stack([radius * np.cos(angles) + shift, radius * height * np.sin(angles)], axis=1)


def _circle(rng: np.random.Generator) -> Outline:
    return [_round()]


def _ellipse(rng: np.random.Generator) -> Outline:
    return [_round(1.15, height=rng.uniform(0.4, 0.65))]


def _rectangle(rng: np.random.Generator) -> Outline:
    return [np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * (0.95, rng.uniform(0.45, 0.95))]


def _triangle(rng: np.random.Generator) -> Outline:
    angles = np.array([0.0, 2.0, 4.0]) * np.pi / 3.0 + rng.uniform(-0.25, 0.25, size=3)
    return [1.15 * np.stack([np.cos(angles), np.sin(angles)], axis=1)]


def _star(rng: np.random.Generator) -> Outline:
    num_tips = int(rng.integers(5, 8))
    angles = np.arange(2 * num_tips) * np.pi / num_tips
    radii = np.where(np.arange(2 * num_tips) % 2 == 0, 1.2, rng.uniform(0.5, 0.65))
    return [np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)]


def _ring(rng: np.random.Generator) -> Outline:
    return [_round(1.05), _round(rng.uniform(0.5, 0.68))]


def _crescent(rng: np.random.Generator) -> Outline:
    return [_round(1.1), _round(rng.uniform(0.85, 0.95), shift=rng.uniform(0.5, 0.65))]


def _cross(rng: np.random.Generator) -> Outline:
    arm = rng.uniform(0.28, 0.42)
    points = [np.array([[1.1, -arm], [1.1, arm], [arm, arm]])]  # one arm; the others are quarter turns of it
    for _ in range(3):
        points.append(points[-1] @ np.array([[0.0, 1.0], [-1.0, 0.0]]))
    return [np.concatenate(points)]


_OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "circle": _circle,
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "crescent": _crescent,
    "cross": _cross,
}

SCENE_CLASSES: tuple[str, ...] = tuple(_OUTLINES)
"""Names of the shapes that a scene may have, which are its classes."""


def draw_coverage(
    name: str, rng: np.random.Generator, size: int, center: tuple[float, float], radius: float, angle: float
) -> np.ndarray:
    """Draws which part of each pixel a shape covers.

    Args:
        name: A member of `SCENE_CLASSES`.
        rng: Generator of the shape's proportions.
        size: Height and width of the image in pixels.
        center: Row and column of the shape's centre in pixels.
        radius: About half the extent of the shape in pixels.
        angle: Rotation in radians.

    Returns:
        Coverage of shape `(size, size)`, float32 in [0, 1].
    """
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])  # for row vectors (x, y)
    canvas = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(canvas)
    for index, polygon in enumerate(_OUTLINES[name](rng)):
        points = 2.0 * (polygon @ rotation * radius + (center[1], center[0]))
        draw.polygon(points.ravel().tolist(), fill=0 if index else 255)
    return np.asarray(canvas.reduce(2), dtype=np.float32) / 255.0
