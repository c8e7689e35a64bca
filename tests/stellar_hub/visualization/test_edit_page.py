"""The page about one edit."""

from itertools import pairwise

import pytest
import torch

from stellar_hub.visualization import Canvas, EditedImage, draw_edit


def side(num_tokens: int, seed: int, height: int = 32, width: int = 48, grid: int = 24) -> EditedImage:
    generator = torch.Generator().manual_seed(seed)
    decoded = torch.rand(3, height, width, generator=generator)
    return EditedImage(decoded, torch.randn(grid, num_tokens, generator=generator).softmax(dim=-1))


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, str]]:
    """Left, top, right and text of each line that will be written on a page."""
    lines: list[tuple[int, int, int, str]] = []
    write = Canvas.text

    def record(canvas: Canvas, left: int, top: int, text: str, size: int, *color: tuple[int, int, int]) -> None:
        lines.append((left, top, left + canvas.text_width(text, size), text))
        write(canvas, left, top, text, size, *color)

    monkeypatch.setattr(Canvas, "text", record)
    return lines


def test_facts__are_the_change_of_the_decoded_image() -> None:
    before, after = side(4, 0), side(4, 1)
    page, facts = draw_edit(before, after, (4, 6), {1: "dropped"}, "a title")
    change = (after.decoded - before.decoded).abs()
    assert page.mode == "RGB"
    assert facts.mean == pytest.approx(float(change.mean()), abs=1e-6)
    assert facts.largest == pytest.approx(float(change.mean(dim=0).max()), abs=1e-6)


def test_no_change__is_said_and_drawn_black(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch)
    same = side(4, 0)
    _, facts = draw_edit(same, same, (4, 6), {0: "moved by +0,+0"}, "title")
    assert (facts.mean, facts.largest) == (0, 0)
    assert any(text.startswith("difference: there is none") for *_, text in lines)


def test_new_token__has_no_area_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = written(monkeypatch)
    draw_edit(side(4, 0), side(5, 1), (4, 6), {4: "is token 7 of other.jpg"}, "title")
    assert any(text.startswith("0.0% -> ") for *_, text in lines)


def test_many_tokens__shows_those_that_changed_most(monkeypatch: pytest.MonkeyPatch) -> None:
    before = side(12, 0)
    maps = before.localization.clone()
    maps[:, 3] = 0
    lines = written(monkeypatch)
    draw_edit(before, EditedImage(before.decoded, maps), (4, 6), dict.fromkeys(range(12), "moved"), "title")
    shown = [text for *_, text in lines if text.startswith("token ")]
    assert len(shown) == 8
    assert "token 3 moved" in shown
    assert any("8 of 12 touched tokens" in text for *_, text in lines)


@pytest.mark.parametrize(("height", "width", "grid"), [(32, 48, (4, 6)), (16, 128, (2, 16)), (128, 16, (16, 2))])
@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("num_tokens", [0, 1, 8])
def test_page__writes_no_text_over_text(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, grid: tuple[int, int], with_input: bool, num_tokens: int
) -> None:
    sides = [side(8, seed, height, width, grid[0] * grid[1]) for seed in (0, 1)]
    lines = written(monkeypatch)
    tokens = dict.fromkeys(range(num_tokens), f"token 3 of a-very-long-name{'-of-a-file' * 9}.jpg, at 120,80")
    page, _ = draw_edit(*sides, grid, tokens, "title " * 60, torch.rand(3, height, width) if with_input else None)
    assert max(right for _, _, right, _ in lines) <= page.width
    for top in {line[1] for line in lines}:
        row = sorted(line for line in lines if line[1] == top)
        assert all(before[2] < after[0] for before, after in pairwise(row))
    assert max(top for _, top, _, _ in lines) < page.height - 14
