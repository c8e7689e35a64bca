import math

import pytest
import torch

from stellar_hub.modeling import inference_timing
from stellar_hub.modeling.inference_timing import MAX_ROUNDS, MIN_ROUNDS, interleaved_medians, relative_difference

CPU = torch.device("cpu")


def test_interleaved_medians__lets_calls_take_turns() -> None:
    order: list[str] = []
    seconds = interleaved_medians({name: lambda name=name: order.append(name) for name in "ab"}, CPU)  # type: ignore[misc]
    assert order == ["a", "b"] * (MAX_ROUNDS + 1)
    assert seconds.keys() == {"a", "b"}


def test_interleaved_medians__ends_early_if_calls_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_timing, "MAX_SECONDS_OF_ROUNDS", 0.0)
    order: list[str] = []
    interleaved_medians({"a": lambda: order.append("a")}, CPU)
    assert len(order) == MIN_ROUNDS + 1


def test_relative_difference__is_that_of_the_worst_output() -> None:
    expected = (torch.ones(4), torch.ones(4))
    assert relative_difference((torch.ones(4), 1.5 * torch.ones(4)), expected) == pytest.approx(0.5)
    assert relative_difference(expected, expected) == 0


@pytest.mark.parametrize("position", [0, 1])
def test_relative_difference__of_nan_is_nan(position: int) -> None:
    outputs = [torch.zeros(2), torch.zeros(2)]
    outputs[position] = outputs[position] + math.nan
    assert math.isnan(relative_difference(outputs, (torch.ones(2), torch.ones(2))))
