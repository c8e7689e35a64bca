"""Pictures beside their true mask, the predicted one, and segments that needed no training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.data.segmentation_folders import UNLABELLED
from stellar_hub.modeling.localization_maps import to_pil, token_colors
from stellar_hub.visualization.canvas import FAINT, Canvas, shorten

MARGIN, HEAD, GAP = 24, 70, 8
SIDE = 150
TEXT, SMALL = 17, 13
COLUMNS = ("picture", "true mask", "linear probe", "segments")
SWATCHES_IN_A_ROW = 5
GREY = (150, 150, 150)
PAINT = 0.6  # of a class's colour over the picture


class SegmentExample(NamedTuple):
    """One test picture."""

    picture: Tensor  # (3, H, W) in [0, 1]
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
            example.picture,
            painted(example.picture, example.mask, colors, background),
            painted(example.picture, example.predicted, colors, background),
            painted(example.picture, large.long(), segment_colors),
        )
        for column, cell in enumerate(cells):
            picture = to_pil(cell).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.picture(MARGIN + column * (SIDE + GAP), HEAD + row * (SIDE + GAP), picture)
    for number, name in enumerate(classes):
        row, column = divmod(number, SWATCHES_IN_A_ROW)
        left, top = MARGIN + column * 124, top_of_key + 8 + 22 * row
        color = GREY if number == background else tuple((255 * colors[number]).round().int().tolist())
        canvas.swatch(left, top + 2, 12, color)
        canvas.text(left + 18, top, shorten(name, 14), SMALL)
    return canvas.image


def painted(picture: Tensor, labels: Tensor, colors: Tensor, background: int | None = None) -> Tensor:
    """A picture `(3, H, W)` in grey under the colours `(C, 3)` of labels `(H, W)`.

    The background stays grey, and unlabelled places dark grey.
    """
    grey = picture.mean(dim=0, keepdim=True).expand_as(picture)
    known = labels != UNLABELLED
    color = colors[torch.where(known, labels, 0).long().clamp(max=len(colors) - 1)].permute(2, 0, 1)
    shown = torch.where(known & (labels != background), torch.lerp(grey, color, PAINT), grey)
    return torch.where(known, shown, 0.5 * grey)
