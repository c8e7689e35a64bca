"""A page of images that one concept found: the query and its region, then each hit and its region."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.modeling.image_loading import load_rgb
from stellar_hub.modeling.localization_maps import as_float, resample_maps, to_pil
from stellar_hub.visualization.canvas import FAINT, Canvas, resize_panel, size_in_square

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
    """The region of one token in one image.

    Attributes:
        image: Image of shape `(3, H, W)`, uint8 or float in [0, 1].
        localization: `L` of the image, `(n, r)`.
        token: Index of the token whose map is shown.
        crop_box: Part of the image that the model saw, `(top, left, bottom, right)` in pixels.
        grid_size: Rows and columns of patches, `(h, w)`.
        caption: Text below the image.
    """

    image: Tensor
    localization: Tensor
    token: int
    crop_box: tuple[float, float, float, float]
    grid_size: tuple[int, int]
    caption: str

    def draw(self, side: int) -> Image.Image:
        """Draws the image in a square of `side` pixels: the token's region in colour, the rest pale, a line between.

        The line is where the map is halfway between its lowest value and its peak.
        """
        size = size_in_square(self.image.shape[2] / self.image.shape[1], side)
        panel = as_float(load_rgb(resize_panel(to_pil(as_float(self.image)), size)))
        inside = self._weight(panel.shape[1], panel.shape[2]) >= 0.5
        pale = panel.mean(dim=0, keepdim=True) * (1 - PALENESS) + PALENESS
        shown = torch.where(inside, panel, pale)
        shown[:, _border(inside)] = torch.tensor(LINE)[:, None]
        return to_pil(shown)

    def _weight(self, height: int, width: int) -> Tensor:
        """Resamples the token's map to a panel, `(height, width)`, from 0 at its lowest value to 1 at its peak."""
        scale = height / self.image.shape[1]
        top, left, bottom, right = (scale * edge for edge in self.crop_box)
        chosen = self.localization[:, self.token, None].float()
        low, high = chosen.min(), chosen.max()
        maps = resample_maps(
            (chosen - low) / (high - low).clamp(min=1e-6), (height, width), (top, left, bottom, right), self.grid_size
        )
        return maps[0]


def draw_regions(query: Region, hits: Sequence[Region], title: str) -> Image.Image:
    """Draws a page with the query on the left and the hits on the right, the best first, row by row.

    Args:
        query: Region that was searched for.
        hits: Regions that were found.
        title: Heading of the page.

    Returns:
        An RGB image.
    """
    num_rows = max(1, math.ceil(len(hits) / COLUMNS))
    left_of_hits = MARGIN + QUERY_SIDE + 2 * GAP
    height = max(QUERY_SIDE + CAPTION, num_rows * (SIDE + CAPTION + GAP) - GAP)
    width = left_of_hits + COLUMNS * (SIDE + GAP) - GAP + MARGIN
    canvas = Canvas(width, HEADING + height + MARGIN)
    canvas.text(MARGIN, MARGIN - 8, canvas.fit(title, 26, width - 2 * MARGIN), 26)
    _place(canvas, query, MARGIN, HEADING, QUERY_SIDE)
    for index, hit in enumerate(hits):
        row, column = divmod(index, COLUMNS)
        _place(canvas, hit, left_of_hits + column * (SIDE + GAP), HEADING + row * (SIDE + CAPTION + GAP), SIDE)
    return canvas.image


def _border(inside: Tensor) -> Tensor:
    """Returns the pixels of a region `(height, width)` that are at its edge, two pixels wide."""
    eroded = -F.max_pool2d(-inside[None].float(), kernel_size=5, stride=1, padding=2)[0]
    return inside & (eroded < 0.5)


def _place(canvas: Canvas, region: Region, left: int, top: int, side: int) -> None:
    """Places a region at the top left of its square, with its caption below."""
    drawn = region.draw(side)
    canvas.paste(left, top, drawn)
    canvas.text(left, top + drawn.height + 6, canvas.fit(region.caption, TEXT, side), TEXT, FAINT)
