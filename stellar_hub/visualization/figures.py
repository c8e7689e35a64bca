"""Figures of an evaluation: confusion matrices and spectra."""

import math

from PIL import Image, ImageDraw
from torch import Tensor

from stellar_hub.visualization.canvas import FAINT, INK, RULE, Canvas, shorten

MARGIN, HEAD = 24, 66
TEXT, SMALL = 17, 12
SIDE = 560  # of the whole matrix, in pixels, at least
MIN_CELL, MAX_CELL = 4, 60
NAMED_CLASSES = 40  # beyond these, names would overlap
COUNTED_CELL = 26  # from here on there is room for numbers
DEEP = (22, 78, 140)


def count_confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often each class (row) was taken for each (column).

    Args:
        predictions: `(N,)` int64 in [0, num_classes).
        labels: `(N,)` int64, likewise.
        num_classes: Number of classes.

    Returns:
        `(num_classes, num_classes)` int64; the sum is `N`.
    """
    pairs = labels.long() * num_classes + predictions.long()
    return pairs.bincount(minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def draw_confusion(counts: Tensor, classes: tuple[str, ...], title: str) -> Image.Image:
    """Draw a confusion matrix: rows are true classes, darkness is the share of the row.

    Args:
        counts: `(C, C)`, from `count_confusion`.
        classes: `C` names.
        title: Above it.
    """
    number = len(classes)
    cell = min(MAX_CELL, max(MIN_CELL, SIDE // number))
    named = number <= NAMED_CLASSES
    left = MARGIN + (130 if named else 0)
    canvas = Canvas(max(left + number * cell + MARGIN, 640), HEAD + number * cell + (70 if named else 20) + MARGIN)
    canvas.text(MARGIN, 14, shorten(title, 76), TEXT)
    correct = 100 * counts.diagonal().sum().item() / max(1, counts.sum().item())
    canvas.text(MARGIN, 38, f"{correct:.1f} % correct; rows: true class, columns: predicted", SMALL, FAINT)
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    for row in range(number):
        top = HEAD + row * cell
        if named:
            name = shorten(classes[row], 16)
            canvas.text(left - 8 - canvas.text_width(name, SMALL), top + cell // 2 - 8, name, SMALL)
        for column in range(number):
            place = left + column * cell
            share = shares[row, column].item()
            canvas.swatch(place, top, cell - 1, tint(share))
            count = int(counts[row, column])
            if count and cell >= COUNTED_CELL:
                text = str(count)
                color = (255, 255, 255) if share > 0.45 else INK
                canvas.text(
                    place + (cell - canvas.text_width(text, SMALL)) // 2, top + cell // 2 - 8, text, SMALL, color
                )
    if named:
        draw_column_names(canvas, classes, left, HEAD + number * cell + 4, cell)
    return canvas.image


def draw_column_names(canvas: Canvas, classes: tuple[str, ...], left: int, top: int, cell: int) -> None:
    """Names below the columns, in turns at two heights where they are long."""
    for column, name in enumerate(classes):
        text = shorten(name, max(4, 2 * cell // 8))
        middle = left + column * cell + (cell - canvas.text_width(text, SMALL)) // 2
        canvas.text(middle, top + (column % 2) * 18, text, SMALL, FAINT)


def tint(share: float) -> tuple[int, int, int]:
    """From near white to deep blue."""
    pale = (240, 243, 247)
    return tuple(round(light + (dark - light) * share) for light, dark in zip(pale, DEEP, strict=True))  # type: ignore[return-value]


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
    canvas.paste(LEFT, TOP, plot(list(spectra.values())))
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
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
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
    return image.resize(PLOT, Image.Resampling.LANCZOS)


def depth(share: float) -> float:
    """How far below the top a value lies, in [0, 1.1]; values too small for the plot lie just below it."""
    return min(1.1, -math.log10(share) / DECADES) if share > 0 else 1.1
