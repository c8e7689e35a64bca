import numpy as np
import torch

from stellar_hub.visualization import Region, draw_regions
from stellar_hub.visualization.search_page import _border

WHOLE = (0.0, 0.0, 64.0, 64.0)


def region(token: int, caption: str = "found") -> Region:
    """A blue image of 64 x 64; token 0 is in its left half, token 1 in its right one."""
    image = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 64, 64)
    localization = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
    return Region(image, localization, token, WHOLE, (2, 2), caption)


def test_region__keeps_its_colours_and_the_rest_is_pale() -> None:
    drawn = np.asarray(region(0).draw(64)).astype(int)
    assert (abs(drawn[32, 10] - [0, 0, 255]) <= 2).all()
    assert drawn[32, 60].max() - drawn[32, 60].min() <= 1  # grey
    assert drawn[32, 60].min() > 127


def test_border__is_the_edge_of_the_inside() -> None:
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[1:8, 1:8] = True
    edge = _border(inside)
    assert (edge & ~inside).sum() == 0
    assert (inside & ~edge).nonzero().tolist() == [[row, column] for row in (3, 4, 5) for column in (3, 4, 5)]


def test_page__has_room_for_all_hits() -> None:
    few, many = draw_regions(region(0), [region(1)] * 5, "few"), draw_regions(region(0), [region(1)] * 12, "many")
    assert few.width == many.width
    assert many.height > few.height
    assert draw_regions(region(0), [], "none").size[0] == few.width
