"""Measuring on one device: calls that take turns, a deadline, and rows that leave as soon as they are known."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

MIN_ROUNDS, MAX_ROUNDS = 3, 15
MAX_SECONDS = 3.0  # of one table of calls that take turns; after these, `MIN_ROUNDS` are enough
MATRIX_SIDE = {"cpu": 512, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**24, "cuda": 2**31}


@dataclass
class Bench:
    """What a part needs: where it runs, until when, and where its rows go.

    Attributes:
        device: The device.
        smoke: Whether everything is tiny, so that all code runs and no number means anything.
        deadline: Value of `time.time` at which the part should end.
        emit: Takes a row.
    """

    device: torch.device
    smoke: bool
    deadline: float
    emit: Callable[[dict[str, Any]], None]

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self.deadline - time.time()

    def row(self, group: str, name: str, **values: Any) -> None:
        """Emits a row: what was measured, which way of doing it, and the values. It replaces an earlier one."""
        self.emit({"group": group, "name": name, **values})

    def attempt(self, group: str, name: str, seconds: float, make: Callable[[], Any]) -> Any:
        """Returns what a function makes; None, with a row that says why, if that fails or time does not suffice.

        Args:
            group: What is measured.
            name: Which way of doing it.
            seconds: Seconds that it may take on a GPU; with less left, it is not tried.
            make: The function.
        """
        if self.left() < (0 if self.smoke else seconds):
            self.row(group, name, note="not measured: no time was left")
            return None
        try:
            return make()
        except Exception as error:  # compilers and drivers raise errors of many kinds; the others go on
            if is_fatal(error):
                raise
            self.row(group, name, note=f"failed: {first_line(error)}")
            return None

    def compile(self, function: Any) -> Any:
        """Returns a compiled function or module, for one shape; a smoke run only traces, as it may have no compiler."""
        return torch.compile(function, dynamic=False, backend="eager" if self.smoke else "inductor")


def is_fatal(error: Exception) -> bool:
    """Returns whether a GPU does nothing more in this process after an error."""
    kinds = ("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address")
    return any(kind in str(error) for kind in kinds)


def first_line(error: BaseException) -> str:
    """Returns the kind of an error and the first line of its message, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Returns the seconds of one call, on a GPU between two events."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def medians(
    calls: Mapping[str, Callable[[], Any]], bench: Bench, device: torch.device | None = None
) -> dict[str, float]:
    """Returns the median seconds of calls that take turns, after one round that does not count.

    Args:
        calls: Functions by name.
        bench: Its device is waited for.
        device: Another device to wait for.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for number in range(2 if bench.smoke else MAX_ROUNDS + 1):
        if number > MIN_ROUNDS and time.perf_counter() - begin > MAX_SECONDS:
            break
        for name, call in calls.items():
            taken[name].append(seconds_of(call, device or bench.device))
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def matrix_product(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Callable[[], Any], int]:
    """Returns a function that multiplies two large square matrices, and its number of floating-point operations."""
    side = MATRIX_SIDE[device.type]
    left = torch.randn(side, side, device=device, dtype=dtype)
    return lambda: left @ left, 2 * side**3


def machine_rates(bench: Bench) -> None:
    """Measures what the machine can do: the rates of a large matrix product and of copying memory."""
    product, operations = matrix_product(bench.device)
    source = torch.zeros(COPIED_BYTES[bench.device.type], dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = medians({"product": product, "copy": lambda: target.copy_(source)}, bench)
    bench.row(
        "machine",
        "matrix product, bfloat16",
        ms=1e3 * seconds["product"],
        tflops=operations / seconds["product"] / 1e12,
    )
    moved = 2 * source.numel() / seconds["copy"]  # it is read and written
    bench.row("machine", "copy on the device", ms=1e3 * seconds["copy"], gb_per_second=moved / 1e9)


@contextmanager
def own_memory(device: torch.device) -> Iterator[None]:
    """Forgets what earlier code compiled, and gives back the memory that was used inside the block."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        free_memory(device)


def free_memory(device: torch.device) -> None:
    """Gives memory back that nothing uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
