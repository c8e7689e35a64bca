"""Figures in one style, drawn with matplotlib: training curves, spectra and confusion matrices.

Nothing here touches pyplot or matplotlib's settings. matplotlib is imported when the first figure is drawn.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from stellar_hub.visualization.canvas import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
INK, FAINT, GRID = "#1c1e22", "#696e76", "#e8ebef"
COLORS = ("#1f5faa", "#d66021", "#2e8654", "#8c46a0", "#787878", "#be283c")
RAW, SMOOTH, LOST = "#b8d0eb", COLORS[0], "#cd3c32"

COLUMNS = 3
PANEL = (440, 260)  # width and height in pixels of one plot with its labels
SMOOTHING = 20  # the smooth line sees a 20th of the run to either side
NOISE = 0.01  # as a share of the range: a curve whose slope changes less from value to value is not smoothed
SPIKE = 5  # a spike takes less than half of this many values in a row
PADDING = 0.08  # of the range, above the highest and below the lowest value

MIN_SIDE, MAX_SIDE = 300, 900  # of a confusion matrix, in pixels
CELL, SMALLEST_CELL = 44, 11  # a smaller one has no room for a name
MAX_NAMED, MAX_COUNTED = 120, 20  # classes up to which names and counts are readable
DECADES = 5  # of a spectrum, below its largest value


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a training run.

    Attributes:
        label: Name of the quantity, which becomes the title of its plot.
        steps: Steps in ascending order, `(n,)`, n at least 1.
        values: Value at each step, `(n,)`. Values may be NaN or infinite.
        log: Whether to draw a logarithmic axis if the values are positive and span a factor of 10 or more.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    log: bool = False


def draw_curves(curves: Sequence[Curve]) -> Image.Image:
    """Draws one small plot per curve: values pale, smoothed values dark, the last value in the upper right corner.

    An axis leaves out lone spikes, because they would flatten the rest. Red marks at the bottom stand for values that
    are NaN or infinite.

    Args:
        curves: Curves to draw. All plots share the range of steps.

    Returns:
        An RGB image, about 1320 pixels wide. Without curves it says that nothing is recorded yet.
    """
    from matplotlib.ticker import MaxNLocator

    columns, rows = min(COLUMNS, max(1, len(curves))), max(1, math.ceil(len(curves) / COLUMNS))
    figure = _figure(columns * PANEL[0], rows * PANEL[1])
    if not curves:
        figure.text(0.5, 0.5, "nothing is recorded yet", color=FAINT, ha="center", fontsize=11)
    first = min((curve.steps[0] for curve in curves), default=0)
    last = max((curve.steps[-1] for curve in curves), default=0)
    for index, curve in enumerate(curves):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_curve(axes, curve)
        if last > first:
            axes.set_xlim(first, last)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))  # no step 1.25
        else:
            axes.set_xticks([first])
    return _render(figure)


def draw_spectra(spectra: dict[str, Tensor]) -> Image.Image:
    """Draws the singular values of several models, divided by the largest, on a logarithmic axis.

    Args:
        spectra: Singular values `(k,)` by model, the largest first.

    Returns:
        An RGB image of 900 x 440 pixels.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(900, 440)
    axes = figure.add_subplot()
    _style(axes, "singular values of pooled features, divided by the largest")
    lines = []
    for index, values in enumerate(spectra.values()):
        shares = values.double().numpy() / max(float(values[0]), 1e-300)
        shares = np.where(shares > 0, shares, np.nan)
        marker = "o" if len(shares) == 1 else None
        lines += axes.plot(
            np.arange(1, len(shares) + 1), shares, color=COLORS[index % len(COLORS)], marker=marker, lw=1.8
        )
    axes.set_yscale("log")
    axes.set_ylim(10.0**-DECADES, 1.5)
    axes.set_xlabel("index of the singular value")
    axes.set_ylabel("share of the largest")
    longest = max(len(values) for values in spectra.values())
    if longest > 1:
        axes.set_xlim(1, longest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [shorten(name, 32) for name in spectra]
    legend = axes.legend(lines, names, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    _take_literally(legend.get_texts())
    return _render(figure)


def draw_confusion(counts: Tensor, classes: Sequence[str], title: str) -> Image.Image:
    """Draws a confusion matrix. Rows are true classes, and the colour shows the share of the row.

    Args:
        counts: Counts of shape `(C, C)` from `stellar_hub.measures.count_confusion`.
        classes: Names of the classes. Up to 120 names are written, and counts for up to 20 classes.
        title: Heading of the figure.

    Returns:
        An RGB image, 620 to 1640 pixels wide.
    """
    number = len(classes)
    named, counted = number <= MAX_NAMED, number <= MAX_COUNTED
    side = min(max(MAX_SIDE, SMALLEST_CELL * number if named else 0), max(MIN_SIDE, CELL * number))
    figure = _figure(side + (320 if named else 220), side + (220 if named else 120), compress=True)
    axes = figure.add_subplot()
    correct = 100 * counts.diagonal().sum().item() / max(1, counts.sum().item())
    _style(axes, f"{shorten(title, side // 9)}\n{correct:.1f} % correct", grid=False)
    shares = (counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelsize=9)
    bar.set_label("share of the true class", color=FAINT, fontsize=9)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if named:
        names = [shorten(name, 28) for name in classes]
        size = 9 if counted else min(7, 50 * side / number / DPI)  # points of a cell, less a little
        axes.set_xticks(range(number), names, rotation=90, fontsize=size)
        axes.set_yticks(range(number), names, fontsize=size)
        _take_literally(axes.get_xticklabels() + axes.get_yticklabels())
    if counted:
        for row, column in counts.nonzero().tolist():
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=8, color=color)
    return _render(figure)


def smooth(values: np.ndarray) -> np.ndarray:
    """Replaces each value by that of a straight line, fitted to the values around it.

    A mean would bend towards the middle at either end of a slope. Values without noise, such as those of a schedule,
    come back as they are. NaN stays NaN and does not count.
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
    """Returns the lowest and the highest finite value without spikes.

    A spike is beyond the 1st or the 99th percentile, does not last, and would stretch the axis by half or more.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    lowest, highest = float(values.min()), float(values.max())
    # float32 does not resolve smaller differences.
    if highest - lowest <= 1e-7 * max(abs(lowest), abs(highest)):
        return (float(np.median(values)),) * 2
    if len(values) < 10 * SPIKE:
        return lowest, highest
    lasting = np.median(np.lib.stride_tricks.sliding_window_view(values, SPIKE), axis=-1)
    low, high = np.percentile(values, (1, 99))
    low, high = min(float(low), float(lasting.min())), max(float(high), float(lasting.max()))
    stretch = 0.5 * (high - low)
    return (low if low - lowest > stretch else lowest), (high if highest - high > stretch else highest)


def _draw_curve(axes: "Axes", curve: Curve) -> None:
    """Draws one curve into its plot."""
    steps, values = curve.steps, curve.values
    finite = np.isfinite(values)
    low, high = value_range(values)
    _style(axes, curve.label)
    color = SMOOTH if finite[-1] else LOST
    axes.set_title(f"{values[-1]:.4g}", loc="right", fontsize=11, color=color)
    raw = np.where(finite, values, np.nan)
    log = curve.log and low > 0 and high >= 10 * low
    within = np.where(finite, np.clip(values, low, high), np.nan)
    smoothed = np.exp(smooth(np.log(within))) if log else smooth(within)
    axes.plot(steps, raw, color=RAW, lw=1)
    axes.plot(steps, smoothed, color=SMOOTH, lw=1.8)
    alone = finite & ~np.append(finite[1:], False) & ~np.insert(finite[:-1], 0, False)
    axes.plot(steps[alone], raw[alone], "o", color=SMOOTH, ms=4)
    lost = steps[~finite]
    axes.plot(lost, np.zeros(len(lost)), "|", color=LOST, ms=14, mew=2, transform=axes.get_xaxis_transform())
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
        _label_decades(axes, halfway=high < 100 * low)
    else:
        margin = PADDING * (high - low) or 0.05 * abs(low)
        if margin < 1e-30:  # which matplotlib cannot resolve
            margin = 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("step")


def _label_decades(axes: "Axes", halfway: bool) -> None:
    """Writes plain numbers at the decades of a logarithmic axis and, if `halfway`, at 2 and 5 times a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if halfway else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(width: int, height: int, compress: bool = False) -> "Figure":
    """Makes an empty white figure of `width` by `height` pixels; `compress` is for axes with a fixed aspect."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, compress=compress)
    return Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white", layout=layout)


def _style(axes: "Axes", title: str, grid: bool = True) -> None:
    """Gives axes their title and the style of all figures."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", colors=FAINT, labelsize=9)
    axes.xaxis.label.set(color=FAINT, fontsize=9)
    axes.yaxis.label.set(color=FAINT, fontsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=GRID, lw=0.8)


def _take_literally(texts: Sequence[Any]) -> None:
    """Turns off formulas: matplotlib would parse text between dollar signs."""
    for text in texts:
        text.set_parse_math(False)


def _render(figure: "Figure") -> Image.Image:
    """Turns a figure into an RGB image. The same figure always gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names in any script
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
