"""Sheets that show images beside the output of a model: segmentations, and the worst reconstructions."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling.localization_maps import to_pil, token_colors
from stellar_hub.visualization.canvas import FAINT, Canvas, size_in_square

MARGIN, HEAD = 24, 70
TEXT, SMALL = 17, 13
SEGMENT_SIDE, SEGMENT_GAP = 150, 8
COLUMNS = ("image", "true mask", "linear probe", "segments")
SWATCHES_PER_ROW = 5
SWATCH_WIDTH = 124
GREY = (150, 150, 150)
PAINT = 0.6  # weight of a class's colour over the image
WORST_SIDE, WORST_GAP, WORST_FOOT, WORST_SMALL = 190, 10, 24, 12


class SegmentExample(NamedTuple):
    """One test image and what is known about its pixels.

    Attributes:
        image: Image of shape `(3, H, W)` in [0, 1].
        mask: True classes, `(H, W)`; 255 is unlabelled.
        predicted: Classes that a linear probe predicts, `(H, W)`.
        segment: Number of the segment of each patch, `(h, w)`.
    """

    image: Tensor
    mask: Tensor
    predicted: Tensor
    segment: Tensor


def choose_spread(classes_of_images: Sequence[Collection[int]], count: int) -> list[int]:
    """Chooses images that show as many different classes as possible; data sets are often sorted by class.

    Args:
        classes_of_images: The classes in each image.
        count: Number of images to choose; fewer if there are not as many.

    Returns:
        Indices of the images in ascending order.
    """
    chosen: list[int] = []
    shown: set[int] = set()
    left = dict(enumerate(map(frozenset, classes_of_images)))
    while left and len(chosen) < count:
        best = max(left, key=lambda index: (len(left[index] - shown), -index))
        if not left[best] - shown:  # every class has been shown: the next round begins
            shown.clear()
            best = max(left, key=lambda index: (len(left[index]), -index))
        chosen.append(best)
        shown |= left.pop(best)
    return sorted(chosen)


def draw_segments(
    examples: Sequence[SegmentExample], classes: Sequence[str], title: str, background: int | None = None
) -> Image.Image:
    """Draws a row per example, and below all rows a key to the colours of the classes.

    Args:
        examples: Examples to draw, at least one.
        classes: Names of the classes, in the order of their numbers.
        title: Heading of the sheet.
        background: Class that gets no colour. None colours all.

    Returns:
        An RGB image.
    """
    num_key_rows = (len(classes) + SWATCHES_PER_ROW - 1) // SWATCHES_PER_ROW
    width = 2 * MARGIN + len(COLUMNS) * (SEGMENT_SIDE + SEGMENT_GAP) - SEGMENT_GAP
    step = max(_size_of(example.image, SEGMENT_SIDE)[1] for example in examples) + SEGMENT_GAP
    top_of_key = HEAD + len(examples) * step
    canvas = Canvas(width, top_of_key + 22 * num_key_rows + MARGIN)
    canvas.text(MARGIN, 14, canvas.fit(title, TEXT, width - 2 * MARGIN), TEXT)
    for column, name in enumerate(COLUMNS):
        canvas.text(MARGIN + column * (SEGMENT_SIDE + SEGMENT_GAP), 44, name, SMALL, FAINT)
    colors = token_colors(len(classes))
    for row, example in enumerate(examples):
        for column, cell in enumerate(_segment_cells(example, colors, background)):
            panel = _enlarge(cell, SEGMENT_SIDE)
            left = MARGIN + column * (SEGMENT_SIDE + SEGMENT_GAP)
            canvas.paste(left, HEAD + row * step, panel)
    for number, name in enumerate(classes):
        row, column = divmod(number, SWATCHES_PER_ROW)
        left, top = MARGIN + column * SWATCH_WIDTH, top_of_key + 8 + 22 * row
        color = GREY if number == background else tuple((255 * colors[number]).round().int().tolist())
        canvas.swatch(left, top + 2, 12, color)
        canvas.text(left + 18, top, canvas.fit(name, SMALL, SWATCH_WIDTH - 24), SMALL)
    return canvas.image


def _segment_cells(example: SegmentExample, colors: Tensor, background: int | None) -> tuple[Tensor, ...]:
    """Returns the images `(3, H, W)` of one row, in the order of `COLUMNS`."""
    segment_colors = token_colors(int(example.segment.max()) + 1)
    segment = F.interpolate(example.segment[None, None].float(), example.mask.shape, mode="nearest-exact")[0, 0]
    return (
        example.image,
        paint_labels(example.image, example.mask, colors, background),
        paint_labels(example.image, example.predicted, colors, background),
        paint_labels(example.image, segment.long(), segment_colors),
    )


def paint_labels(image: Tensor, labels: Tensor, colors: Tensor, background: int | None = None) -> Tensor:
    """Paints the colours of labels over an image in grey.

    Args:
        image: Image of shape `(3, H, W)` in [0, 1].
        labels: Class of each pixel, `(H, W)`. Unlabelled pixels (255) become dark grey.
        colors: Colour of each class, `(C, 3)` in [0, 1].
        background: Class that stays grey. None colours all.

    Returns:
        An image of shape `(3, H, W)` in [0, 1].
    """
    grey = image.mean(dim=0, keepdim=True).expand_as(image)
    known = labels != UNLABELLED
    color = colors[torch.where(known, labels, 0).long().clamp(max=len(colors) - 1)].permute(2, 0, 1)
    shown = torch.where(known & (labels != background), torch.lerp(grey, color, PAINT), grey)
    return torch.where(known, shown, 0.5 * grey)


def _enlarge(image: Tensor, side: int) -> Image.Image:
    """Returns an image `(3, H, W)` with pixels that can be seen, in its own aspect within a square."""
    return to_pil(image).resize(_size_of(image, side), Image.Resampling.NEAREST)


def _size_of(image: Tensor, side: int) -> tuple[int, int]:
    return size_in_square(image.shape[2] / image.shape[1], side)


def draw_worst(originals: Tensor, decoded: Tensor, captions: Sequence[str], title: str) -> Image.Image:
    """Draws a column per image: above, the image as the model saw it; below, its reconstruction.

    Args:
        originals: Images of shape `(N, 3, H, W)` in [0, 1].
        decoded: Reconstructions of the same shape.
        captions: One line of text per image.
        title: Heading of the sheet.

    Returns:
        An RGB image.
    """
    step = WORST_SIDE + WORST_GAP
    width = max(2 * MARGIN + len(originals) * step - WORST_GAP, 460)
    row_step = _size_of(originals[0], WORST_SIDE)[1] + WORST_GAP if len(originals) else 0
    canvas = Canvas(width, HEAD + 2 * row_step + WORST_FOOT + MARGIN)
    canvas.text(MARGIN, 14, canvas.fit(title, TEXT, width - 2 * MARGIN), TEXT)
    canvas.text(MARGIN, 42, "above: as the model saw it; below: reconstructed", WORST_SMALL, FAINT)
    for column, caption in enumerate(captions):
        left = MARGIN + column * step
        for row, images in enumerate((originals, decoded)):
            panel = _enlarge(images[column], WORST_SIDE)
            canvas.paste(left, HEAD + row * row_step, panel)
        label = canvas.fit(caption, WORST_SMALL, WORST_SIDE)
        canvas.text(left, HEAD + 2 * row_step, label, WORST_SMALL, FAINT)
    return canvas.image
