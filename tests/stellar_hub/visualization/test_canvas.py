"""Pages and panels."""

import pytest
import torch
from PIL import Image

from stellar_hub.visualization import Canvas, draw_assignment, draw_token, resize_panel, size_in_square
from stellar_hub.visualization.canvas import EMPTY_BAR, shorten

RED = (200, 30, 30)


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 20), (1.0, 40)])
def test_bar__is_filled_to_the_share(share: float, filled: int) -> None:
    canvas = Canvas(60, 20)
    canvas.bar(10, 5, 40, 6, share, RED)
    row = [canvas.image.getpixel((x, 7)) for x in range(60)]
    assert row.count(RED) == filled
    assert row.count(EMPTY_BAR) == 40 - filled


def test_shorten__keeps_both_ends() -> None:
    assert shorten("goldfish.jpg", 12) == "goldfish.jpg"
    assert shorten("goldfish.jpg", 9) == "gol...jpg"


@pytest.mark.parametrize(("aspect", "size"), [(1.0, (100, 100)), (2.0, (100, 50)), (0.5, (50, 100)), (1000, (100, 1))])
def test_size_in_square__keeps_the_aspect(aspect: float, size: tuple[int, int]) -> None:
    assert size_in_square(aspect, 100) == size


def test_overlays__have_the_size_of_their_panel() -> None:
    panel = resize_panel(Image.new("RGB", (8, 4), "white"), (40, 20))
    localization = torch.eye(2).repeat_interleave(4, dim=1)[:, :2].repeat(4, 1)
    assert draw_assignment(panel, localization, (2, 4)).size == (40, 20)
    token = draw_token(panel, torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2), 0, (2, 2)).convert("L")
    assert token.size == (40, 20)
    assert token.getpixel((20, 1)) > token.getpixel((20, 18))  # token 0 is in the upper half
