"""Measurements for `optimize_for_inference`: median times of calls that take turns, and how much outputs differ."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

MAX_TIME_RATIO = 0.97  # a variant must take at most this share of the plain way's time; more may be noise
MAX_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # relative, of an output
MIN_ROUNDS, MAX_ROUNDS = 3, 5
MAX_SECONDS_OF_ROUNDS = 5.0  # after these, `MIN_ROUNDS` are enough

KeyT = TypeVar("KeyT", bound=Hashable)


def interleaved_medians(calls: Mapping[KeyT, Callable[[], Any]], device: torch.device) -> dict[KeyT, float]:
    """Returns the median seconds of calls that take turns, after one round that does not count.

    Args:
        calls: Functions by name.
        device: Device whose work is waited for.
    """
    taken: dict[KeyT, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for number in range(MAX_ROUNDS + 1):
        if number > MIN_ROUNDS and time.perf_counter() - begin > MAX_SECONDS_OF_ROUNDS:
            break
        for name, call in calls.items():
            wait_for(device)
            start = time.perf_counter()
            call()
            wait_for(device)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def wait_for(device: torch.device) -> None:
    """Waits until a device has finished; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def relative_difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Returns the largest relative difference, by the Euclidean norm, of a call's outputs from those expected."""
    differences = [
        (output.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-12)
        for output, wanted in zip(outputs, expected, strict=True)
    ]
    return float(torch.stack(differences).max())  # NaN if one is
