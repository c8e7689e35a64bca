"""Pages and panels."""

import torch
from PIL import Image

from stellar_hub.visualization import Canvas, draw_assignment, draw_token, resize_panel, size_in_square
from stellar_hub.visualization.canvas import EMPTY_BAR, shorten

RED = (200, 30, 30)


def test_bar__is_filled_to_the_share() -> None:
    for share, filled in ((0.0, 0), (0.5, 20), (1.0, 40)):
        canvas = Canvas(60, 20)
        canvas.bar(10, 5, 40, 6, share, RED)
        row = [canvas.image.getpixel((x, 7)) for x in range(60)]
        assert (row.count(RED), row.count(EMPTY_BAR)) == (filled, 40 - filled)


def test_shorten__keeps_both_ends() -> None:
    assert shorten("goldfish.jpg", 12) == "goldfish.jpg"
    assert shorten("goldfish.jpg", 9) == "gol...jpg"


def test_size_in_square__keeps_the_aspect() -> None:
    sizes = [size_in_square(aspect, 100) for aspect in (1.0, 2.0, 0.5, 1000)]
    assert sizes == [(100, 100), (100, 50), (50, 100), (100, 1)]


def test_overlays__show_the_maps_over_their_panel() -> None:
    panel = resize_panel(Image.new("RGB", (8, 4), "white"), (40, 20))
    localization = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2)  # token 0 has the upper half
    for drawn in (draw_assignment(panel, localization, (2, 2)), draw_token(panel, localization, 0, (2, 2))):
        assert drawn.size == panel.size
        assert drawn.getpixel((20, 1)) != drawn.getpixel((20, 18))
    assert drawn.convert("L").getpixel((20, 1)) > drawn.convert("L").getpixel((20, 18))
