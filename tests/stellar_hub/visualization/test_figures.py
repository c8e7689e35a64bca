"""Figures: what is drawn, and numbers that are few, odd or missing."""

import math
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stellar_hub.visualization import Curve, draw_confusion, draw_curves, draw_spectra, figures
from stellar_hub.visualization.figures import LOST, SMOOTH, smooth, value_range

some_numbers = st.lists(st.floats(width=32), max_size=60)


def curve(*values: float, log: bool = False) -> Curve:
    return Curve("loss", np.arange(len(values), dtype=float), np.array(values), log)


def where(image: Image.Image, color: str) -> np.ndarray:
    """Returns the places `(n, 2)` of a colour."""
    wanted = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    return np.argwhere(np.abs(np.asarray(image, dtype=int) - wanted).max(axis=-1) < 40)


def test_figures__leave_matplotlibs_settings_alone() -> None:
    names = [name for name in matplotlib.rcParams if name != "backend"]  # a look at it would choose one
    before = [matplotlib.rcParams[name] for name in names]
    draw_curves([curve(1.0, 2.0)])
    assert [matplotlib.rcParams[name] for name in names] == before


def test_curves__have_a_plot_each() -> None:
    few, many = draw_curves([curve(1.0, 2.0)] * 2), draw_curves([curve(1.0, 2.0)] * 4)
    assert few.width < many.width
    assert few.height < many.height


@pytest.mark.parametrize("count", [2, 3, 7, 40, 2001])
def test_curves__have_whole_steps_at_their_ticks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(figures, "_render", lambda figure: figure)
    drawn: Any = draw_curves([curve(*range(count))])
    ticks = drawn.axes[0].get_xticks()
    assert len(ticks) > 1
    assert (ticks == ticks.round()).all()


def test_curves__mark_what_is_not_finite() -> None:
    assert not len(where(draw_curves([curve(1.0, 2.0)]), LOST))
    assert len(where(draw_curves([curve(1.0, math.nan, 2.0, math.inf, 3.0)]), LOST))


@settings(max_examples=8)
@example(values=[], log=False)
@example(values=[math.nan], log=False)
@example(values=[0.0, 0.0], log=True)
@given(values=some_numbers, log=st.booleans())
def test_curves__are_drawn_of_any_values(values: list[float], log: bool) -> None:
    assert draw_curves([curve(*values, log=log)] if values else []).mode == "RGB"


@pytest.mark.parametrize("log", [False, True])
def test_curves__run_from_corner_to_corner(log: bool) -> None:
    """On the axis that fits them, a line and an exponential are both straight."""
    x = np.linspace(0, 3, 50)
    values = 10**x if log else x
    points = where(draw_curves([curve(*values, log=log)]), SMOOTH)
    points = points[points[:, 0] > 40]  # below the title
    rows, columns = points.T
    assert abs(np.polyfit(columns, rows, 1)[0]) == pytest.approx(np.ptp(rows) / np.ptp(columns), rel=0.05)
    assert np.abs(rows - np.polyval(np.polyfit(columns, rows, 1), columns)).max() < 5


def test_curves__are_the_same_bytes_each_time() -> None:
    curves = [curve(3.0, 2.0, 1.0)]
    assert draw_curves(curves).tobytes() == draw_curves(curves).tobytes()


def test_smooth__keeps_a_slope_and_takes_the_noise() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    slope = np.linspace(0, 20, 400)
    left = smooth(slope + noise) - slope
    assert np.abs(left).max() < 1.0
    assert left.std() < 0.3 * noise.std()


def test_smooth__leaves_schedules_and_few_values_alone() -> None:
    for values in (np.linspace(1, 0, 100) ** 2, np.array([1.0]), np.array([1.0, 5.0, 2.0])):
        np.testing.assert_array_equal(smooth(values), values)


def test_smooth__passes_over_nan() -> None:
    values = np.random.default_rng(0).normal(size=100) + 5
    values[40:50] = math.nan
    result = smooth(values)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(values))
    assert np.nanmin(result) > 3


def test_value_range__leaves_out_a_lone_spike() -> None:
    values = np.random.default_rng(0).uniform(1, 2, size=200)
    values[70] = 500
    low, high = value_range(values)
    assert low == values.min()
    assert high < 2.1


def test_value_range__keeps_a_rise_that_lasts() -> None:
    values = np.ones(400) + np.arange(400) * 1e-3
    values[-3:] = 50
    assert value_range(values) == (1.0, 50.0)


def test_value_range__of_a_constant_is_that_value() -> None:
    assert value_range(np.full(100, 2.0)) == (2.0, 2.0)


@given(values=some_numbers)
def test_value_range__is_finite_and_in_order(values: list[float]) -> None:
    low, high = value_range(np.array(values))
    assert -math.inf < low <= high < math.inf


@pytest.mark.parametrize("number", [2, 60, 130])
def test_confusion__is_dark_on_the_diagonal_of_right_answers(number: int) -> None:
    counts = 2 * torch.eye(number, dtype=torch.long)
    image = draw_confusion(counts, [f"a class named ${each}_$" for each in range(number)], "title")
    assert image.mode == "RGB"
    matrix = where(image, "#08306b")  # the darkest blue; the colour bar, right of the matrix, has it too
    in_matrix = matrix[matrix[:, 1] < image.width - 150]
    assert np.corrcoef(in_matrix.T)[0, 1] > 0.6


def test_spectra__have_a_line_each() -> None:
    one = draw_spectra({"a": torch.tensor([2.0, 1.0, 0.0])})
    two = draw_spectra(
        {"a": torch.tensor([2.0, 1.0, 0.0]), "_b": torch.zeros(4), "日本": torch.tensor([1.0, 1e-2, 1e-4])}
    )
    assert one.size == two.size == (900, 440)
    assert not len(where(one, "#2e8654"))
    assert len(where(two, "#2e8654"))
