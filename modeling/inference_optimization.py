"""`StellarModel.optimize_for_inference`: it measures what may be faster on this device, and keeps what is faster."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from .call_choices import choose_calls, measure_calls, smooth_images
from .captured_calls import MODES, compile_blocks, many_recompiles
from .float8 import check_float8
from .graph_capture import Capture, default_capture
from .inference_report import Choice, OptimizationReport
from .inference_timing import interleaved_medians
from .inference_variants import parts_of
from .packed_linear import PackedLinear
from .part_choices import choose_float8, choose_part, describe
from .safe_text import one_line

BATCH_SIZES = (1, 8, 32, 256)
NUM_IMAGES = 4  # in the batch of a measurement on a CPU: the share of attention differs between one image and several
NUM_IMAGES_OF_FLOAT8 = 8  # whose encodings are compared
MAX_SECONDS = 60.0

Dtype = torch.dtype | Literal["auto", "float8"] | None


def optimize(
    model: Any,
    dtype: Dtype,
    compile: bool | None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    max_seconds: float = MAX_SECONDS,
    make_capture: Callable[[torch.device], Capture | None] = default_capture,
) -> OptimizationReport:
    """Changes a `StellarModel` in place; its method `optimize_for_inference` says what the arguments mean.

    Args:
        model: The model.
        dtype: As for the method.
        compile: As for the method.
        batch_sizes: As for the method.
        max_seconds: As for the method.
        make_capture: Returns what captures calls on a device, or None; tests pass a fake.

    Raises:
        ImportError: if `dtype` is "float8" and torchao is not installed.
        ValueError: if an argument is not allowed, or the device has no float8.
    """
    _check_arguments(model, dtype, compile, batch_sizes, max_seconds)
    deadline = time.perf_counter() + max_seconds
    model.eval().requires_grad_(False)
    model._captured, model._for_inference = None, True
    capture = make_capture(model.device) if _is_on_one_device(model) else None
    # Without a capture, little or nothing is compiled, and torch's compiler takes a second to import.
    with _own_random_numbers(), nullcontext() if capture is None else many_recompiles():
        return _optimize(model, dtype, compile, sorted(set(batch_sizes)), capture, deadline)


def _optimize(
    model: Any,
    dtype: Dtype,
    compile: bool | None,
    batch_sizes: Sequence[int],
    capture: Capture | None,
    deadline: float,
) -> OptimizationReport:
    device = model.device
    images = smooth_images(model, NUM_IMAGES_OF_FLOAT8) if dtype == "float8" else None
    expected = None if images is None else model.encode(images)
    steps = [choose_dtype(model, torch.bfloat16 if dtype == "float8" else dtype)]
    choices: list[Choice] = []
    measured, lines = measure_calls(model, batch_sizes) if capture is not None else ([], [])
    fitting = sorted({call.batch_size for call, _ in measured}) or list(batch_sizes)
    part_sizes = [NUM_IMAGES] if device.type == "cpu" else sorted({fitting[len(fitting) // 2], fitting[-1]})
    if images is not None and expected is not None:
        line, found = choose_float8(model, images, tuple(expected), fitting[-1], capture, compile is not False)
        steps.append(line)
        choices += found
    for part in parts_of(model):
        found = choose_part(part, part_sizes, device, capture)
        steps.append(describe(found, device) if found else f"{part.name}: not measured, because memory is too small")
        choices += found
    if compile:
        compile_blocks([block for part in (model.encoder, model.decoder) if part is not None for block in part.blocks])
        steps.append("blocks are compiled: the first call with each new kind of input is slow, so use few image sizes")
    if capture is not None:
        modes = MODES if compile is None else ("graph",)
        model._captured, found, more = choose_calls(model, measured, capture, modes, deadline)
        steps += [*more, *lines]
        choices += found
    return OptimizationReport(tuple(steps), tuple(choices))


def _check_arguments(model: Any, dtype: Any, compile: Any, batch_sizes: Any, max_seconds: Any) -> None:
    if dtype not in (None, "auto", "float8") and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f'dtype must be None, "auto", "float8" or a floating torch.dtype such as torch.bfloat16, got {dtype!r}'
        )
    sizes = list(batch_sizes) if isinstance(batch_sizes, Sequence) else []
    if not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(
            f"batch_sizes must be a list of integers of at least 1, got {one_line(repr(batch_sizes), 100)}"
        )
    if not isinstance(max_seconds, int | float) or not max_seconds >= 0:
        raise ValueError(f"max_seconds must be a number of at least 0, got {one_line(repr(max_seconds), 100)}")
    if compile not in (None, True, False):
        raise ValueError(f"compile must be None, True or False, got {one_line(repr(compile), 100)}")
    if dtype == "float8":
        check_float8(model.device)


def _is_on_one_device(model: Any) -> bool:
    """Whether all weights are on the model's device. Offloaded ones are fetched by hooks, which no graph can run."""
    return all(parameter.device == model.device for parameter in model.parameters())


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Draws the same numbers each time, and leaves the user's alone; those of GPUs are not drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def choose_dtype(model: Any, dtype: torch.dtype | Literal["auto"] | None) -> str:
    """Changes the model's dtype and returns a sentence about it."""
    before, name = model.dtype, str(model.dtype).removeprefix("torch.")
    faster = before == torch.float32 and dtype in (None, "auto") and prefers_bfloat16(model.device)
    if dtype == "auto":
        dtype = torch.bfloat16 if faster else None
    if dtype is None or dtype == before:
        hint = '; dtype="auto" would use bfloat16, which is faster here and less precise' if faster else ""
        return f"dtype: {name}, not changed{hint}"
    model.to(dtype)
    return f"dtype: {str(dtype).removeprefix('torch.')}, was {name}"


def prefers_bfloat16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 clearly faster than float32; on a CPU it measures."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    wide = torch.ones(512, 768)
    with torch.random.fork_rng(devices=[]):
        layers = {dtype: PackedLinear(nn.Linear(768, 768).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    calls: Any = {dtype: lambda dtype=dtype: layers[dtype](wide.to(dtype)) for dtype in layers}
    with torch.inference_mode():
        seconds: Any = interleaved_medians(calls, device)
    return bool(seconds[torch.bfloat16] < 0.8 * seconds[torch.float32])
