"""Drawn scenes of several textured objects, with known masks and classes.

A scene has a background and a few shapes with texture, shading and a soft shadow; light fall-off and grain are added
as by a camera. Everything follows from the seed.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from stellar_hub.data.scenes.shapes import SCENE_CLASSES, draw_coverage
from stellar_hub.data.scenes.textures import paint_background, paint_texture, pick_color, pixel_grid

ClassCue = Literal["outline", "texture", "color"]
# Texture and hue (in turns of the colour circle) of each class, for the class cues "texture" and "color".
CLASS_APPEARANCES = {
    "circle": ("dots", 0.0),
    "ellipse": ("speckles", 0.09),
    "rectangle": ("checks", 0.16),
    "triangle": ("stripes", 0.33),
    "star": ("gradient", 0.47),
    "ring": ("plain", 0.58),
    "crescent": ("rings", 0.72),
    "cross": ("zigzag", 0.86),
}

_OVERSAMPLING = 2  # scenes are painted at this multiple of their size, and outlines at twice that
_MIN_VISIBLE = 0.5  # fraction of every object that stays visible
_MIN_AREA = 0.015  # area of the smallest object, as a fraction of the image


@dataclass(frozen=True)
class Scene:
    """A drawn image, and the masks and classes of its objects.

    Attributes:
        image: `(height, width, 3)` uint8.
        masks: `(num_objects, height, width)` bool. Masks show visible parts only, so they are disjoint.
        classes: Names of the objects' classes from `SCENE_CLASSES`, in the order in which they were drawn.
    """

    image: np.ndarray
    masks: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Shape:
    """A placed shape. Lengths are in painted pixels.

    Attributes:
        name: Name of the class.
        center: Row and column of the centre.
        radius: About half the extent.
        angle: Rotation in radians.
        coverage: Covered part of each painted pixel, `(painted_size, painted_size)` float32 in [0, 1].
        small_coverage: Covered part of each pixel of the scene, `(size, size)` float32 in [0, 1].
    """

    name: str
    center: tuple[float, float]
    radius: float
    angle: float
    coverage: np.ndarray
    small_coverage: np.ndarray


def draw_scene(seed: int, size: int = 64, max_objects: int = 4, *, class_cue: ClassCue = "outline") -> Scene:
    """Draws one scene.

    Args:
        seed: Seed of all draws, at least 0. The same arguments return the same scene.
        size: Height and width of the image in pixels, at least 8.
        max_objects: Maximum number of objects, at least 1. The scene has at least one object.
        class_cue: What the objects of a class have in common: "outline", "texture" (outline and texture) or "color"
            (outline, texture and hue, see `CLASS_APPEARANCES`). Everything else is random.

    Returns:
        The scene, with an image of shape `(size, size, 3)` and masks of shape `(num_objects, size, size)`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if max_objects < 1:
        raise ValueError(f"max_objects must be at least 1, got {max_objects}")
    if class_cue not in get_args(ClassCue):
        raise ValueError(f"class_cue must be one of {', '.join(get_args(ClassCue))}, got {class_cue!r}")
    rng = np.random.default_rng(seed)
    shapes, masks = _place_shapes(rng, size, num_objects=int(rng.integers(1, max_objects + 1)))
    background = paint_background(rng, size)  # so smooth that it needs no oversampling
    canvas = background.repeat(_OVERSAMPLING, axis=0).repeat(_OVERSAMPLING, axis=1)
    light = rng.uniform(0.0, 2.0 * np.pi)
    for shape in shapes:
        _paint_shape(canvas, shape, light, rng, class_cue)
    return Scene(_develop(canvas, rng), masks, tuple(shape.name for shape in shapes))


def _place_shapes(rng: np.random.Generator, size: int, num_objects: int) -> tuple[list[_Shape], np.ndarray]:
    """Places shapes one over the other and rejects those that would hide too much of another one.

    Returns:
        At least one shape, and their visible masks `(num_shapes, size, size)`.
    """
    shapes: list[_Shape] = []
    covers = np.zeros((0, size, size), dtype=np.float32)
    masks = np.zeros((0, size, size), dtype=bool)
    for attempt in range(6 * num_objects):
        if len(shapes) == num_objects:
            break
        shape = _random_shape(rng, size, crowd=num_objects + attempt // 4)
        tried = np.concatenate([covers, shape.small_coverage[None]])
        visible = _visible_masks(tried)
        needed = np.maximum(_MIN_VISIBLE * tried.sum(axis=(1, 2)), max(3.0, _MIN_AREA * size * size))
        if (visible.sum(axis=(1, 2)) >= needed).all():
            shapes.append(shape)
            covers, masks = tried, visible
    if not shapes:
        middle = 0.5 * _OVERSAMPLING * size
        shapes = [_draw_shape("circle", rng, size, (middle, middle), 0.6 * middle, angle=0.0)]
        masks = _visible_masks(shapes[0].small_coverage[None])
    return shapes, masks


def _random_shape(rng: np.random.Generator, size: int, crowd: int) -> _Shape:
    painted = _OVERSAMPLING * size
    name = SCENE_CLASSES[int(rng.integers(len(SCENE_CLASSES)))]
    radius = painted * rng.uniform(0.12, 0.22 + 0.2 / crowd)
    row, column = painted * rng.uniform(0.12, 0.88, size=2)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    return _draw_shape(name, rng, size, (row, column), radius, angle)


def _draw_shape(
    name: str, rng: np.random.Generator, size: int, center: tuple[float, float], radius: float, angle: float
) -> _Shape:
    coverage = draw_coverage(name, rng, _OVERSAMPLING * size, center, radius, angle)
    return _Shape(name, center, radius, angle, coverage, _shrink(coverage))


def _visible_masks(covers: np.ndarray) -> np.ndarray:
    """Returns the pixels of which each object shows more than half, `(N, H, W)`; `covers` goes from far to near."""
    passing = np.cumprod(1.0 - covers[::-1], axis=0)[::-1]  # light that passes object i and all nearer ones
    visible = covers * np.concatenate([passing[1:], np.ones_like(covers[:1])])
    return visible > 0.5


def _paint_shape(
    canvas: np.ndarray, shape: _Shape, light: float, rng: np.random.Generator, class_cue: ClassCue
) -> None:
    """Paints shadow, texture and shading of one shape into `canvas` `(painted_size, painted_size, 3)`."""
    size = len(canvas)
    _cast_shadow(canvas, shape, light, strength=rng.uniform(0.15, 0.6))
    reach = 1.35 * shape.radius
    top, left = (max(0, int(middle - reach)) for middle in shape.center)
    bottom, right = (min(size, int(middle + reach) + 2) for middle in shape.center)
    box = (slice(top, bottom), slice(left, right))
    rows, columns = pixel_grid(size)
    y = (rows[top:bottom] * size - shape.center[0]) / np.float32(shape.radius)  # (h, 1)
    x = (columns[:, left:right] * size - shape.center[1]) / np.float32(shape.radius)  # (1, w)
    cos, sin = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    alpha = shape.coverage[box][..., None]
    behind = canvas[box][::4, ::4].mean(axis=(0, 1))
    texture, hue = CLASS_APPEARANCES[shape.name]
    color = _color_near_hue(hue, rng) if class_cue == "color" else _contrasting_color(behind, rng)
    name = None if class_cue == "outline" else texture
    colors = paint_texture(cos * x + sin * y, cos * y - sin * x, color, rng, name)
    toward = np.float32(np.cos(light)) * x + np.float32(np.sin(light)) * y  # (h, w), largest toward the light
    roundness = np.float32(rng.uniform(0.0, 0.35))
    shade = 1.0 + roundness * toward - 0.6 * roundness * np.clip(x * x + y * y, 0.0, 1.5)
    canvas[box] += alpha * (colors * shade[..., None] - canvas[box])


def _contrasting_color(behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Picks a colour `(3,)` that differs from the mean colour behind the object, if five tries find one."""
    color = pick_color(rng)
    for _ in range(4):
        if np.abs(color - behind).max() > 0.2:
            break
        color = pick_color(rng)
    return color


def _color_near_hue(hue: float, rng: np.random.Generator) -> np.ndarray:
    """Picks a colour `(3,)` close to a hue, with any saturation and brightness."""
    turn, saturation, value = rng.normal(hue, 0.015) % 1.0, rng.uniform(0.45, 0.95), rng.uniform(0.4, 0.95)
    return np.array(colorsys.hsv_to_rgb(turn, saturation, value), dtype=np.float32)


def _cast_shadow(canvas: np.ndarray, shape: _Shape, light: float, strength: float) -> None:
    """Darkens `canvas` on the side away from the light with a blurred copy of the shape."""
    small = Image.fromarray((255.0 * shape.small_coverage).astype(np.uint8))
    blurred = small.filter(ImageFilter.GaussianBlur(0.06 * shape.radius + 0.5))
    step, scale = 0.22 * shape.radius / _OVERSAMPLING, 1.0 / _OVERSAMPLING
    to_source = (scale, 0.0, step * np.cos(light), 0.0, scale, step * np.sin(light))
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    shadow = blurred.transform(shape.coverage.shape, affine, to_source, bilinear)
    canvas *= 1.0 - np.float32(strength / 255.0) * np.asarray(shadow, dtype=np.float32)[..., None]


def _shrink(values: np.ndarray) -> np.ndarray:
    """Averages blocks of painted pixels, `(painted_size, painted_size, ...)` to `(size, size, ...)`."""
    step = _OVERSAMPLING
    rows = sum((values[offset::step] for offset in range(1, step)), start=values[::step])
    total = sum((rows[:, offset::step] for offset in range(1, step)), start=rows[:, ::step])
    return total * np.float32(1.0 / step**2)


def _develop(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrinks a painted canvas, adds contrast, light fall-off and grain, and returns `(size, size, 3)` uint8."""
    image = _shrink(canvas)
    rows, columns = pixel_grid(len(image))
    fall_off = 1.0 - np.float32(rng.uniform(0.0, 0.35)) * ((rows - 0.5) ** 2 + (columns - 0.5) ** 2)
    contrast = np.float32(rng.uniform(0.9, 1.6))
    image = (rng.uniform(0.45, 0.55) + contrast * (image - 0.47)) * fall_off[..., None]
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)
    image += np.float32(rng.uniform(0.0, 0.018)) * grain[..., None]
    return (255.0 * np.clip(image, 0.0, 1.0) + 0.5).astype(np.uint8)
