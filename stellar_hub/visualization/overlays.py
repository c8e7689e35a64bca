"""Sheets of images beside what a model makes of them: segments, and the worst reconstructions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.measures.regions import UNLABELLED
from stellar_hub.modeling.localization_maps import to_pil, token_colors
from stellar_hub.visualization.canvas import FAINT, Canvas, shorten

MARGIN, HEAD, GAP = 24, 70, 8
SIDE = 150
TEXT, SMALL = 17, 13
COLUMNS = ("image", "true mask", "linear probe", "segments")
SWATCHES_IN_A_ROW = 5
GREY = (150, 150, 150)
PAINT = 0.6  # of a class's colour over the image


class SegmentExample(NamedTuple):
    """One test image."""

    image: Tensor  # (3, H, W) in [0, 1]
    mask: Tensor  # (H, W), classes or 255
    predicted: Tensor  # (H, W), classes
    segment: Tensor  # (h, w), the number of the segment that each patch belongs to


def draw_segments(
    examples: Sequence[SegmentExample], classes: Sequence[str], title: str, background: int | None = None
) -> Image.Image:
    """A row for each example, and a key of the classes' colours.

    Args:
        examples: At least one.
        classes: Names, in the order of their numbers.
        title: Above all.
        background: A class that is left without colour.
    """
    key_rows = (len(classes) + SWATCHES_IN_A_ROW - 1) // SWATCHES_IN_A_ROW
    width = 2 * MARGIN + len(COLUMNS) * (SIDE + GAP) - GAP
    top_of_key = HEAD + len(examples) * (SIDE + GAP)
    canvas = Canvas(width, top_of_key + 22 * key_rows + MARGIN)
    canvas.text(MARGIN, 14, shorten(title, 72), TEXT)
    for column, name in enumerate(COLUMNS):
        canvas.text(MARGIN + column * (SIDE + GAP), 44, name, SMALL, FAINT)
    colors = token_colors(len(classes))
    for row, example in enumerate(examples):
        segment_colors = token_colors(int(example.segment.max()) + 1)
        large = F.interpolate(example.segment[None, None].float(), example.mask.shape, mode="nearest-exact")[0, 0]
        cells = (
            example.image,
            painted(example.image, example.mask, colors, background),
            painted(example.image, example.predicted, colors, background),
            painted(example.image, large.long(), segment_colors),
        )
        for column, cell in enumerate(cells):
            image = to_pil(cell).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(MARGIN + column * (SIDE + GAP), HEAD + row * (SIDE + GAP), image)
    for number, name in enumerate(classes):
        row, column = divmod(number, SWATCHES_IN_A_ROW)
        left, top = MARGIN + column * 124, top_of_key + 8 + 22 * row
        color = GREY if number == background else tuple((255 * colors[number]).round().int().tolist())
        canvas.swatch(left, top + 2, 12, color)
        canvas.text(left + 18, top, shorten(name, 14), SMALL)
    return canvas.image


def painted(image: Tensor, labels: Tensor, colors: Tensor, background: int | None = None) -> Tensor:
    """An image `(3, H, W)` in grey under the colours `(C, 3)` of labels `(H, W)`.

    The background stays grey, and unlabelled places dark grey.
    """
    grey = image.mean(dim=0, keepdim=True).expand_as(image)
    known = labels != UNLABELLED
    color = colors[torch.where(known, labels, 0).long().clamp(max=len(colors) - 1)].permute(2, 0, 1)
    shown = torch.where(known & (labels != background), torch.lerp(grey, color, PAINT), grey)
    return torch.where(known, shown, 0.5 * grey)


MARGIN, HEAD, GAP, FOOT = 24, 70, 10, 24
SIDE_WORST_RECONSTRUCTIONS = 190
TEXT, SMALL = 17, 12


def draw_worst(originals: Tensor, decoded: Tensor, captions: Sequence[str], title: str) -> Image.Image:
    """A column for each image: above as the model saw it, below as it came back.

    Args:
        originals: `(N, 3, H, W)` in [0, 1].
        decoded: The same shape.
        captions: `N` lines.
        title: Above all.
    """
    width = 2 * MARGIN + len(originals) * (SIDE_WORST_RECONSTRUCTIONS + GAP) - GAP
    canvas = Canvas(max(width, 460), HEAD + 2 * (SIDE_WORST_RECONSTRUCTIONS + GAP) + FOOT + MARGIN)
    canvas.text(MARGIN, 14, shorten(title, 60), TEXT)
    canvas.text(MARGIN, 42, "above: as the model saw it; below: reconstructed", SMALL, FAINT)
    for column, caption in enumerate(captions):
        left = MARGIN + column * (SIDE_WORST_RECONSTRUCTIONS + GAP)
        for row, images in enumerate((originals, decoded)):
            image = to_pil(images[column]).resize(
                (SIDE_WORST_RECONSTRUCTIONS, SIDE_WORST_RECONSTRUCTIONS), Image.Resampling.NEAREST
            )
            canvas.paste(left, HEAD + row * (SIDE_WORST_RECONSTRUCTIONS + GAP), image)
        canvas.text(left, HEAD + 2 * (SIDE_WORST_RECONSTRUCTIONS + GAP), shorten(caption, 30), SMALL, FAINT)
    return canvas.image
