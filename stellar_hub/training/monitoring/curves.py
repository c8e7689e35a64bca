"""Training curves, drawn with Pillow alone: a small plot for each number a journal holds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from stellar_hub.training.monitoring.quantities import in_order, label
from stellar_hub.visualization.canvas import FAINT, Canvas

COLUMNS = 3
MARGIN = 28
PANEL = (380, 190)  # the plot itself, width and height
LEFT, HEAD, FOOT = 58, 34, 40  # room around it for numbers and name
GAP = 22
TEXT, SMALL = 17, 13
FINER = 3  # lines are drawn this much larger, then reduced: Pillow's own have jagged edges
GRID = (232, 235, 239)
LINE = (31, 95, 170)
RAW = (184, 208, 235)
LOST = (205, 60, 50)
PADDING = 0.08  # of a plot's height, above its highest and below its lowest value
SMOOTHING = 20  # the smooth line looks a 20th of the run to either side
NOISE = 0.01  # of the range; what changes less from one value to the next is drawn as it is
SPIKE = 5  # values in a row, of which a spike takes less than half


def draw_curves(records: Sequence[dict[str, Any]]) -> Image.Image:
    """Draw one small plot for each number: pale as recorded, dark smoothed, the last value in its corner.

    Numbers beside a plot are the values at its upper and lower line: the highest and lowest recorded, lone spikes left
    out, which would flatten the rest. Red marks below stand for values that are NaN or infinite.

    Args:
        records: From `journal.read`: "step" and numbers by name. Numbers need not be in all; a step that occurs twice
            counts as it was last.

    Returns:
        An RGB image, about 1300 pixels wide; without records it says that there are none.
    """
    in_turn = sorted({record["step"]: record for record in records}.values(), key=lambda record: record["step"])
    names = in_order({name for record in in_turn for name in record if name != "step"})
    columns, rows = min(COLUMNS, max(1, len(names))), max(1, math.ceil(len(names) / COLUMNS))
    cell = (LEFT + PANEL[0] + GAP, HEAD + PANEL[1] + FOOT)
    canvas = Canvas(2 * MARGIN + columns * cell[0] - GAP, 2 * MARGIN + rows * cell[1])
    if not names:
        canvas.text(MARGIN, MARGIN, "nothing is recorded yet", TEXT, FAINT)
    for place, name in enumerate(names):
        row, column = divmod(place, COLUMNS)
        points = [(record["step"], float(record[name])) for record in in_turn if name in record]
        steps, values = (np.array(side, dtype=np.float64) for side in zip(*points, strict=True))
        bounds = (float(in_turn[0]["step"]), float(in_turn[-1]["step"]))
        draw_panel(canvas, MARGIN + column * cell[0], MARGIN + row * cell[1], label(name), steps, values, bounds)
    return canvas.image


def draw_panel(
    canvas: Canvas,
    left: int,
    top: int,
    name: str,
    steps: np.ndarray,
    values: np.ndarray,
    bounds: tuple[float, float],
) -> None:
    """One plot with its name, its last value and the ends of its axes."""
    low, high = value_range(values)
    left, top = left + LEFT, top + HEAD
    canvas.text(left, top - 30, name, TEXT)
    last = number(values[-1])
    color = LINE if math.isfinite(values[-1]) else LOST
    canvas.text(left + PANEL[0] - canvas.text_width(last, TEXT), top - 30, last, TEXT, color)
    canvas.paste(left, top, plot(steps, values, bounds, (low, high)))
    for value in {low, high}:
        y = top + height_of(np.array(value), (low, high), PANEL[1]).item()
        canvas.text(left - 8 - canvas.text_width(number(value), SMALL), round(y) - 8, number(value), SMALL, FAINT)
    first, end = (f"{step:,.0f}" for step in bounds)
    below = top + PANEL[1] + 6
    canvas.text(left, below, f"step {first}", SMALL, FAINT)
    if first != end:
        canvas.text(left + PANEL[0] - canvas.text_width(end, SMALL), below, end, SMALL, FAINT)


def plot(
    steps: np.ndarray, values: np.ndarray, bounds: tuple[float, float], limits: tuple[float, float]
) -> Image.Image:
    """The lines of one plot, without text, over the steps `bounds`; for `limits` see `height_of`."""
    width, height = PANEL[0] * FINER, PANEL[1] * FINER
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for value in (limits[0], sum(limits) / 2, limits[1]):
        y = height_of(np.array(value), limits, height).item()
        draw.line((0, y, width, y), fill=GRID, width=FINER)
    span = bounds[1] - bounds[0]
    x = (steps - bounds[0]) / span * (width - 1) if span else np.full(len(steps), width / 2)
    within = np.clip(values, *limits)
    draw_line(draw, x, height_of(np.where(np.isfinite(values), values, np.nan), limits, height), RAW, FINER)
    draw_line(draw, x, height_of(smoothed(np.where(np.isfinite(values), within, np.nan)), limits, height), LINE, 6)
    for lost in x[~np.isfinite(values)]:
        draw.rectangle((lost - FINER, height - 8 * FINER, lost + FINER, height), fill=LOST)
    return image.resize(PANEL, Image.Resampling.LANCZOS)


def height_of(values: np.ndarray, limits: tuple[float, float], height: int) -> np.ndarray:
    """Where values lie in a plot of `height` pixels, from its top; far beyond `limits` is just outside.

    Equal limits, of a number that never changes, lie in the middle.
    """
    low, high = limits
    share = (values - low) / (high - low) if high > low else np.full_like(values, 0.5) + 0 * values
    return (1 - PADDING - np.clip(share, -1, 2) * (1 - 2 * PADDING)) * (height - 1)


def draw_line(
    draw: ImageDraw.ImageDraw, x: np.ndarray, y: np.ndarray, color: tuple[int, int, int], thickness: int
) -> None:
    """A line that is broken where values are not finite; a point that stands alone becomes a dot."""
    finite = np.concatenate([[False], np.isfinite(y), [False]])
    starts, ends = np.flatnonzero(finite[1:] & ~finite[:-1]), np.flatnonzero(finite[:-1] & ~finite[1:])
    for start, end in zip(starts, ends, strict=True):
        if end - start == 1:
            radius = 1.5 * thickness
            draw.ellipse((x[start] - radius, y[start] - radius, x[start] + radius, y[start] + radius), fill=color)
        else:
            points = list(zip(x[start:end].tolist(), y[start:end].tolist(), strict=True))
            draw.line(points, fill=color, width=thickness, joint="curve")


def smoothed(values: np.ndarray) -> np.ndarray:
    """Each value replaced by a straight line's, fitted to those around it; NaN stays NaN and counts for nothing.

    A mean would bend towards the middle at either end of a slope. Values without noise, such as those of a schedule,
    are left as they are.
    """
    finite = np.isfinite(values)
    known = values[finite]
    reach = len(values) // SMOOTHING
    if reach < 1 or len(known) < 3 or np.median(np.abs(np.diff(known, 2))) <= NOISE * np.ptp(known):
        return values
    x = np.arange(len(values), dtype=np.float64)
    y = np.where(finite, values - known.mean(), 0.0)
    first, last = np.maximum(np.arange(len(values)) - reach, 0), np.minimum(np.arange(len(values)) + reach + 1, len(x))
    moments = [np.concatenate([[0.0], np.cumsum(part)]) for part in (finite, x * finite, x * x * finite, y, x * y)]
    count, sum_x, sum_xx, sum_y, sum_xy = (moment[last] - moment[first] for moment in moments)
    count = np.maximum(count, 1)
    spread = sum_xx - sum_x**2 / count
    slope = np.where(spread > 0.1, (sum_xy - sum_x * sum_y / count) / np.maximum(spread, 0.1), 0.0)
    fitted = sum_y / count + slope * (x - sum_x / count) + known.mean()
    return np.where(finite, fitted, np.nan)


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The lowest and highest value, spikes left out.

    A spike is beyond the 1st or the 99th percentile, does not last, and would stretch the axis by half or more.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    lowest, highest = float(values.min()), float(values.max())
    # Differences below what float32 resolves are none.
    if highest - lowest <= 1e-7 * max(abs(lowest), abs(highest)):
        return (float(np.median(values)),) * 2
    if len(values) < 10 * SPIKE:
        return lowest, highest
    lasting = np.median(np.lib.stride_tricks.sliding_window_view(values, SPIKE), axis=-1)
    low, high = np.percentile(values, (1, 99))
    low, high = min(float(low), float(lasting.min())), max(float(high), float(lasting.max()))
    stretch = 0.5 * (high - low)
    return (low if low - lowest > stretch else lowest), (high if highest - high > stretch else highest)


def number(value: float) -> str:
    """Three digits in a few characters; small ones read "1.5e-4"."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(float(value))
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
