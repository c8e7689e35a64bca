"""What the benchmarks of losses share: peak memory in a fresh process, seconds in turns, and relative errors."""

import ctypes
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def resident(kind: str) -> int:
    """Returns the bytes of this process's resident memory, at present (`VmRSS`) or at its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def added_memory(call: Callable[[], Any], device: str) -> int:
    """Returns the most bytes that a call takes in addition to what is there already."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present value
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def peak_memory(call: Callable[[], Any]) -> int:
    """Returns the most bytes of memory of its own that a call takes in addition to what is there already.

    This memory (`RssAnon`) is looked at every millisecond while the call runs, so that a short peak may be missed.
    Mapped files do not count. Before the call, what other calls have freed goes back to the system (glibc).
    """
    ctypes.CDLL(None).malloc_trim(0)
    samples, stopped = [resident("RssAnon")], threading.Event()

    def sample() -> None:
        while not stopped.wait(0.001):
            samples.append(resident("RssAnon"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        call()
    finally:
        stopped.set()
        sampler.join()
    return max(samples) - samples[0]


def measured_apart(script: str, variant: str, options: dict[str, Any]) -> int:
    """Returns the bytes that `script --measure VARIANT` prints, run with these options in a fresh process."""
    command = [sys.executable, script, *(f"--{name}={value}" for name, value in options.items()), "--measure", variant]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def interleaved_seconds(
    variants: Sequence[str], call: Callable[[str], Any], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Returns the median seconds of `call(variant)`; variants take turns, and the first round does not count."""
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(repeats + 1):
        for variant in variants:
            start = clock()
            call(variant)
            seconds[variant].append(clock() - start)
    return {variant: statistics.median(taken[1:]) for variant, taken in seconds.items()}


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Returns the largest relative error, in norm, of several tensors."""
    errors = [(a - b).norm() / b.norm() for a, b in zip(actual, expected, strict=True)]
    return float(torch.stack(errors).max())
