"""Training curves: what is drawn where, and numbers that are few, odd or missing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.training.monitoring.curves import PANEL, draw_curves, height_of, number, plot, smoothed, value_range

some_numbers = st.lists(st.floats(width=32), min_size=1, max_size=60)


def test_draw_curves__has_a_plot_for_each_quantity_that_is_there() -> None:
    few = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0, "mask_loss": 0.5}]
    many = [record | {"token_cosine": 0.5, "learning_rate": 1e-4} for record in few]
    assert draw_curves(few).width < draw_curves(many).width
    assert draw_curves(few).height < draw_curves(many).height


@pytest.mark.parametrize("records", [[], [{"step": 3}], [{"step": 3, "loss": 1.5}], [{"step": 3, "loss": math.nan}]])
def test_draw_curves__works_with_few_records(records: list[dict[str, float]]) -> None:
    image = draw_curves(records)
    assert image.mode == "RGB"
    assert len(image.getcolors(1 << 20)) > 1


def test_draw_curves__takes_the_last_of_records_of_one_step_in_any_order() -> None:
    tidy = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 5.0}]
    messy = [{"step": 3, "loss": 9.0}, tidy[1], tidy[2], tidy[0]]
    assert draw_curves(messy).tobytes() == draw_curves(tidy).tobytes()


@given(values=some_numbers)
def test_draw_curves__draws_any_numbers(values: list[float]) -> None:
    records = [{"step": step, "loss": value} for step, value in enumerate(values)]
    assert draw_curves(records).mode == "RGB"


def test_plot__draws_the_line_from_corner_to_corner() -> None:
    steps = np.arange(50.0)
    image = np.asarray(plot(steps, steps, (0, 49), (0, 49)).convert("L"), dtype=int)
    darkest = image.argmin(axis=0)
    expected = height_of(np.linspace(0, 49, PANEL[0]), (0, 49), PANEL[1])
    assert np.abs(darkest - expected)[3:-3].max() <= 2


def test_plot__marks_what_is_not_finite() -> None:
    values = np.array([1.0, math.nan, 2.0, math.inf, 3.0])
    image = np.asarray(plot(np.arange(5.0), values, (0, 4), (1, 3)), dtype=int)
    red = (image[..., 0] - image[..., 2] > 100).any(axis=0)
    quarter = PANEL[0] // 4
    assert red[quarter]
    assert red[3 * quarter]
    assert not red[2 * quarter]


def test_smoothed__keeps_a_slope_and_takes_the_noise() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    slope = np.linspace(0, 20, 400)
    left = smoothed(slope + noise) - slope
    assert np.abs(left).max() < 1.0
    assert left.std() < 0.3 * noise.std()


@pytest.mark.parametrize("values", [np.linspace(1, 0, 100) ** 2, np.array([1.0]), np.array([1.0, 5.0, 2.0])])
def test_smoothed__leaves_schedules_and_few_values_alone(values: np.ndarray) -> None:
    np.testing.assert_array_equal(smoothed(values), values)


def test_smoothed__passes_over_nan() -> None:
    values = np.random.default_rng(0).normal(size=100) + 5
    values[40:50] = math.nan
    result = smoothed(values)
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


@pytest.mark.parametrize("values", [[2.0] * 100, [2.0]])
def test_value_range__of_a_constant_is_that_value(values: list[float]) -> None:
    assert value_range(np.array(values)) == (2.0, 2.0)


@given(values=some_numbers)
def test_value_range__is_finite_and_in_order(values: list[float]) -> None:
    low, high = value_range(np.array(values))
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= high


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.5e-4, "1.5e-4"),
        (-0.25, "-0.25"),
        (12.345, "12.3"),
        (999.9, "1,000"),
        (1234.5, "1,234"),
        (2e6, "2.0e6"),
        (3e12, "3.0e12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_number__is_short(value: float, text: str) -> None:
    assert number(value) == text
