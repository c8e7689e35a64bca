"""Singular values of several models' features as lines: a steep fall is a collapse."""

import math

from PIL import Image, ImageDraw
from torch import Tensor

from stellar_hub.visualization.canvas import FAINT, RULE, Canvas, shorten

PLOT = (560, 300)
LEFT, TOP, RIGHT, BOTTOM = 76, 60, 250, 56
TEXT, SMALL = 17, 13
FINER = 3  # lines are drawn this much larger, then reduced: Pillow's own have jagged edges
DECADES = 5  # below the largest value
COLORS = ((31, 95, 170), (214, 96, 33), (46, 134, 84), (140, 70, 160), (120, 120, 120), (190, 40, 60))


def draw_spectra(spectra: dict[str, Tensor]) -> Image.Image:
    """Draw each model's singular values, by the largest, on a logarithmic scale.

    Args:
        spectra: By model, `(k,)` each, the largest first.
    """
    canvas = Canvas(LEFT + PLOT[0] + RIGHT, TOP + PLOT[1] + BOTTOM)
    canvas.text(LEFT, 16, "singular values of pooled features, by the largest", TEXT)
    canvas.picture(LEFT, TOP, plot(list(spectra.values())))
    for decade in range(DECADES + 1):
        y = TOP + round(PLOT[1] * decade / DECADES)
        text = "1" if decade == 0 else f"1e-{decade}"
        canvas.text(LEFT - 10 - canvas.text_width(text, SMALL), y - 8, text, SMALL, FAINT)
    longest = max(len(values) for values in spectra.values())
    canvas.text(LEFT, TOP + PLOT[1] + 10, "1", SMALL, FAINT)
    canvas.text(LEFT + PLOT[0] - canvas.text_width(str(longest), SMALL), TOP + PLOT[1] + 10, str(longest), SMALL, FAINT)
    for place, name in enumerate(spectra):
        top = TOP + 26 * place
        canvas.swatch(LEFT + PLOT[0] + 20, top + 3, 12, COLORS[place % len(COLORS)])
        canvas.text(LEFT + PLOT[0] + 40, top, shorten(name, 28), SMALL)
    return canvas.image


def plot(spectra: list[Tensor]) -> Image.Image:
    """The lines, without text."""
    width, height = PLOT[0] * FINER, PLOT[1] * FINER
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for decade in range(1, DECADES):
        draw.line((0, height * decade / DECADES, width, height * decade / DECADES), fill=RULE, width=FINER)
    longest = max(len(values) for values in spectra)
    for place, values in enumerate(spectra):
        largest = max(float(values[0]), 1e-300)
        points = [
            (index / max(1, longest - 1) * (width - 1), depth(float(value) / largest) * height)
            for index, value in enumerate(values)
        ]
        draw.line(points, fill=COLORS[place % len(COLORS)], width=2 * FINER, joint="curve")
    return picture.resize(PLOT, Image.Resampling.LANCZOS)


def depth(share: float) -> float:
    """How far below the top a value lies, in [0, 1.1]; values too small for the plot lie just below it."""
    return min(1.1, -math.log10(share) / DECADES) if share > 0 else 1.1
