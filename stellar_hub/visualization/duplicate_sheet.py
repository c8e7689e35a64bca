"""A contact sheet of near-duplicates: each group in a row, the image that is kept first, in a green frame."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from stellar_hub.visualization.canvas import FAINT, INK, Canvas, resize_panel, size_in_square

MARGIN = 28
HEADING = 84
GROUP_HEADING = 26
CAPTION = 44  # two lines below an image
GAP = 18
GROUP_GAP = 16
SIDE = 170
COLUMNS = 6
TEXT, SMALL = 15, 13
FRAME = 4
KEPT = (24, 128, 62)
MISSING = (238, 240, 243)


@dataclass(frozen=True)
class SheetImage:
    """An image of a group.

    Attributes:
        image: The image in any size; None if it cannot be shown.
        name: Its name.
        facts: A line below the name, such as "0.97, 384 x 512".
    """

    image: Image.Image | None
    name: str
    facts: str


@dataclass(frozen=True)
class SheetGroup:
    """The images of a group that a sheet shows.

    Attributes:
        heading: A line above the images, such as "group 3: 9 images".
        images: The image that is kept, then the others; the first `COLUMNS` are drawn.
    """

    heading: str
    images: Sequence[SheetImage]


def draw_duplicates(groups: Sequence[SheetGroup], title: str, note: str = "") -> Image.Image:
    """Draws a row of images for each group. Images keep their aspect.

    Args:
        groups: Groups to draw.
        title: Heading of the sheet.
        note: A line below the heading.

    Returns:
        An RGB image, 1166 pixels wide.
    """
    rows = [[_panel(each, place == 0) for place, each in enumerate(group.images[:COLUMNS])] for group in groups]
    heights = [max((panel.height for panel in row), default=0) for row in rows]
    width = 2 * MARGIN + COLUMNS * (SIDE + GAP) - GAP
    group_height = GROUP_HEADING + CAPTION + GROUP_GAP
    canvas = Canvas(width, HEADING + sum(heights) + len(groups) * group_height + MARGIN - GROUP_GAP)
    canvas.text(MARGIN, MARGIN - 8, canvas.fit(title, 24, width - 2 * MARGIN), 24)
    canvas.text(MARGIN, MARGIN + 26, canvas.fit(note, SMALL, width - 2 * MARGIN), SMALL, FAINT)
    top = HEADING
    for group, row, height in zip(groups, rows, heights, strict=True):
        canvas.text(MARGIN, top, canvas.fit(group.heading, TEXT, width - 2 * MARGIN), TEXT)
        for column, panel in enumerate(row):
            left = MARGIN + column * (SIDE + GAP)
            _place(canvas, left, top + GROUP_HEADING, panel, group.images[column], is_kept=column == 0)
        top += height + group_height
    return canvas.image


def _panel(image: SheetImage, is_kept: bool) -> Image.Image:
    """Returns an image that fills a square of `SIDE` pixels, with a green frame if it is kept."""
    side = SIDE - 2 * FRAME
    if image.image is None:
        canvas = Canvas(side, side // 2)
        canvas.swatch(0, 0, side, MISSING)
        canvas.text(12, side // 4 - 9, "not readable", SMALL, FAINT)
        panel = canvas.image
    else:
        panel = resize_panel(image.image.convert("RGB"), size_in_square(image.image.width / image.image.height, side))
    return ImageOps.expand(panel, FRAME, KEPT if is_kept else (255, 255, 255))


def _place(canvas: Canvas, left: int, top: int, panel: Image.Image, image: SheetImage, is_kept: bool) -> None:
    """Places an image with its name and its facts below."""
    canvas.image.paste(panel, (left, top))
    below = top + panel.height + 4
    canvas.text(left + FRAME, below, canvas.fit(image.name, SMALL, SIDE - 2 * FRAME), SMALL, INK)
    color = KEPT if is_kept else FAINT
    canvas.text(left + FRAME, below + 18, canvas.fit(image.facts, SMALL, SIDE - 2 * FRAME), SMALL, color)
