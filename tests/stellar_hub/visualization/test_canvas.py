"""Pages and panels."""

import pytest
import torch
from PIL import Image

from stellar_hub.visualization import (
    Canvas,
    draw_assignment,
    draw_token,
    is_used,
    resize_panel,
    size_in_box,
    size_in_square,
)
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


def test_size_in_box__fills_one_side() -> None:
    assert [size_in_box(aspect, 100, 200) for aspect in (2.0, 0.5, 0.25)] == [(100, 50), (100, 200), (50, 200)]


@pytest.mark.parametrize("text", ["a.jpg", "x" * 5000, "\x1b[31m" * 40, "\ud8ff" * 90, "日本" * 90])
def test_fit__is_not_wider_than_asked(text: str) -> None:
    canvas = Canvas(300, 20)
    fitted = canvas.fit(text, 15, 120)
    assert canvas.text_width(fitted, 15) <= 120
    assert fitted.isprintable()


def test_text__writes_control_characters_out() -> None:
    drawn = []
    for text in ("a\nb", r"a\x0ab"):
        canvas = Canvas(200, 60)
        canvas.text(5, 5, text, 15)
        drawn.append(canvas.image.tobytes())
    assert drawn[0] == drawn[1]


def test_draw_token__of_one_scale_keeps_a_weak_map_dark() -> None:
    panel = Image.new("RGB", (20, 20), "white")
    localization = torch.tensor([[0.99, 0.01]] * 2 + [[1.0, 0.0]] * 2)
    own, shared = (draw_token(panel, localization, 1, (2, 2), scale).convert("L") for scale in (None, (0.0, 1.0)))
    assert own.getextrema()[1] > 1.5 * shared.getextrema()[1]


def test_is_used__needs_a_tenth_of_an_equal_share_somewhere() -> None:
    assert is_used(torch.tensor([[0.95, 0.05], [0.97, 0.03]])).tolist() == [True, True]
    assert is_used(torch.tensor([[0.96, 0.04], [0.97, 0.03]])).tolist() == [True, False]
    assert is_used(torch.ones(4, 1)).tolist() == [True]
