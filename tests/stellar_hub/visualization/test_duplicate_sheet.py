import numpy as np
import pytest
from PIL import Image

from stellar_hub.visualization import SheetGroup, SheetImage, draw_duplicates
from stellar_hub.visualization.duplicate_sheet import COLUMNS, FRAME, GROUP_HEADING, HEADING, KEPT, MARGIN, SIDE

BLUE = (0, 0, 255)


def group(count: int, size: tuple[int, int] = (40, 30)) -> SheetGroup:
    return SheetGroup("group 1", [SheetImage(Image.new("RGB", size, BLUE), "a.jpg", "0.99, 30 x 40")] * count)


def test_kept_image__has_the_green_frame() -> None:
    sheet = draw_duplicates([group(2)], "title", "note")
    top = HEADING + GROUP_HEADING
    assert sheet.getpixel((MARGIN + 1, top + 1)) == KEPT
    assert sheet.getpixel((MARGIN + SIDE // 2, top + 40)) == BLUE
    values = np.asarray(sheet)
    assert ((values == KEPT).all(axis=2).any(axis=0).nonzero()[0] < MARGIN + SIDE).all()


def test_groups__have_a_row_each_and_columns_end() -> None:
    one, two = draw_duplicates([group(2)], "title"), draw_duplicates([group(2), group(COLUMNS + 5)], "title")
    assert one.width == two.width
    assert two.height > one.height


@pytest.mark.parametrize("size", [(2000, 10), (10, 2000), (1, 1)])
def test_any_aspect__fits(size: tuple[int, int]) -> None:
    sheet = draw_duplicates([group(2, size)], "title")
    assert sheet.height < HEADING + SIDE + 150
    inside = (np.asarray(sheet) == BLUE).all(axis=2)
    assert inside.any(axis=0).sum() <= 2 * (SIDE - 2 * FRAME)


def test_image_that_cannot_be_read__has_a_place() -> None:
    sheet = draw_duplicates([SheetGroup("group 1", [SheetImage(None, "a.jpg", "keep")])], "title")
    assert sheet.height > HEADING + SIDE // 2
