"""A page of images that were found by one concept: the query and its region, then each hit and its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.modeling.localization_maps import as_float, resample_maps, to_pil
from stellar_hub.visualization.canvas import FAINT, Canvas, shorten
from stellar_hub.visualization.page import as_panel, panel_size

MARGIN = 28
GAP = 18
HEADING = 66
CAPTION = 30
QUERY_SIDE = 300
SIDE = 200
COLUMNS = 5
TEXT = 15
PALENESS = 0.55  # 1 is white
LINE = (0.93, 0.22, 0.13)


@dataclass(frozen=True)
class Region:
    """One token's place in one image.

    Attributes:
        image: `(3, H, W)`, uint8 or float in [0, 1].
        localization: `L` of the image, `(n, r)`.
        token: Whose map to show.
        crop_box: `(top, left, bottom, right)` of what the model saw, in the image's pixels.
        grid_size: Patches `(h, w)`.
        caption: What to write below.
    """

    image: Tensor
    localization: Tensor
    token: int
    crop_box: tuple[float, float, float, float]
    grid_size: tuple[int, int]
    caption: str

    def draw(self, side: int) -> Image.Image:
        """The image in a square of `side` pixels: as it is where the token is, pale elsewhere, with a line between.

        The line is where the map is half as high as at its peak, counted from its lowest value.
        """
        size = panel_size(self.image.shape[2] / self.image.shape[1], side)
        panel = as_float(as_panel(to_pil(as_float(self.image)), size))
        weight = self._weight(panel.shape[1], panel.shape[2])
        pale = panel.mean(dim=0, keepdim=True) * (1 - PALENESS) + PALENESS
        shown = torch.where(weight >= 0.5, panel, pale)
        shown[:, border(weight >= 0.5)] = torch.tensor(LINE)[:, None]
        return to_pil(shown)

    def _weight(self, height: int, width: int) -> Tensor:
        """The token's map over a panel, `(height, width)`, from 0 at its lowest to 1 at its peak."""
        scale = height / self.image.shape[1]
        top, left, bottom, right = (scale * edge for edge in self.crop_box)
        chosen = self.localization[:, self.token, None].float()
        low, high = chosen.min(), chosen.max()
        maps = resample_maps(
            (chosen - low) / (high - low).clamp(min=1e-6), (height, width), (top, left, bottom, right), self.grid_size
        )
        return maps[0]


def border(inside: Tensor) -> Tensor:
    """The pixels of a region `(height, width)` that lie at its edge, two pixels wide."""
    core = -F.max_pool2d(-inside[None].float(), kernel_size=5, stride=1, padding=2)[0]  # eroded
    return inside & (core < 0.5)


def draw_regions(query: Region, hits: Sequence[Region], title: str) -> Image.Image:
    """Draw a page: the query on the left, the hits on the right, best first, row by row.

    Args:
        query: What was looked for.
        hits: What was found.
        title: Heading.

    Returns:
        An RGB image.
    """
    num_rows = max(1, math.ceil(len(hits) / COLUMNS))
    left_of_hits = MARGIN + QUERY_SIDE + 2 * GAP
    height = max(QUERY_SIDE + CAPTION, num_rows * (SIDE + CAPTION + GAP) - GAP)
    canvas = Canvas(left_of_hits + COLUMNS * (SIDE + GAP) - GAP + MARGIN, HEADING + height + MARGIN)
    canvas.text(MARGIN, MARGIN - 8, shorten(title, 90), 26)
    place(canvas, query, MARGIN, HEADING, QUERY_SIDE)
    for index, hit in enumerate(hits):
        row, column = divmod(index, COLUMNS)
        place(canvas, hit, left_of_hits + column * (SIDE + GAP), HEADING + row * (SIDE + CAPTION + GAP), SIDE)
    return canvas.image


def place(canvas: Canvas, region: Region, left: int, top: int, side: int) -> None:
    """A region with its caption below, both from the left of their square."""
    drawn = region.draw(side)
    canvas.paste(left, top, drawn)
    most = max(8, side * 2 // TEXT)  # a letter is about half as wide as high
    canvas.text(left, top + drawn.height + 6, shorten(region.caption, most), TEXT, FAINT)
