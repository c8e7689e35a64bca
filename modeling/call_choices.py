"""`optimize_for_inference`, second step: whole calls, each batch size run in the mode that is fastest when measured."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .captured_calls import MODES, CapturedCalls, Mode
from .graph_capture import Capture, CapturedCall
from .inference_report import Choice, milliseconds
from .inference_timing import MAX_DIFFERENCE, MAX_TIME_RATIO, interleaved_medians, relative_difference

# Of decoded images, if a head chooses codes: where two codes are nearly equal, rounding decides, and a patch differs.
MAX_DIFFERENCE_OF_CODES = {torch.float32: 0.01, torch.bfloat16: 0.2, torch.float16: 0.2}
NAMES: dict[Mode, str] = {
    "eager": "as it is",
    "graph": "graph",
    "blocks": "graph of compiled blocks",
    "whole": "graph of the call compiled as a whole",
}


class Call(NamedTuple):
    """A method of the model with inputs of one batch size.

    Attributes:
        name: What a report says.
        batch_size: Number of images.
        method: Name of the method.
        inputs: Its tensors.
        constants: Its other arguments.
    """

    name: str
    batch_size: int
    method: str
    inputs: tuple[Tensor, ...]
    constants: dict[str, Any]

    def run(self, model: Any) -> tuple[Tensor, ...]:
        """Calls the method as it is."""
        outputs: tuple[Tensor, ...] = getattr(model, self.method)(*self.inputs, **self.constants)
        return outputs


def calls_of(model: Any, batch_size: int) -> list[Call]:
    """Returns what is measured for one batch size: encoding and, if the model can, decoding."""
    side = model.config.image_size
    calls = [Call("encode", batch_size, "_encode_tensors", (smooth_images(model, batch_size),), {})]
    if model.can_decode:
        grid = model.grid_size(side, side)
        num_tokens = model.config.num_sparse_tokens
        semantics = torch.randn(batch_size, num_tokens, model.num_features)
        localization = torch.randn(batch_size, grid[0] * grid[1], num_tokens).softmax(dim=-1)
        inputs = tuple(x.to(model.device, model.dtype) for x in (semantics, localization))
        calls.append(Call("decode", batch_size, "_decode_tensors", inputs, {"grid_size": grid}))
    return calls


def smooth_images(model: Any, batch_size: int) -> Tensor:
    """Returns random images, `(batch_size, 3, H, W)`, uint8, whose colours change slowly, as photographs' do."""
    side = model.config.image_size
    coarse = torch.rand(batch_size, model.config.num_channels, 8, 8)
    return (255 * F.interpolate(coarse, size=(side, side), mode="bilinear")).to(torch.uint8).to(model.device)


@torch.no_grad()
def measure_calls(model: Any, batch_sizes: Sequence[int]) -> tuple[list[tuple[Call, float]], list[str]]:
    """Returns the calls that fit into memory with their median seconds as they are, and lines about others."""
    found: list[tuple[Call, float]] = []
    lines = []
    for batch in sorted(set(batch_sizes)):
        try:
            for call in calls_of(model, batch):
                seconds = interleaved_medians({call.name: partial(call.run, model)}, model.device)
                found.append((call, seconds[call.name]))
        except torch.OutOfMemoryError:
            lines.append(f"batch {batch}: not measured, because memory is too small")
    return found, lines


@torch.no_grad()
def choose_calls(
    model: Any, measured: Sequence[tuple[Call, float]], capture: Capture, modes: Sequence[Mode], deadline: float
) -> tuple[CapturedCalls, list[Choice], list[str]]:
    """Finds the fastest mode of each call.

    Args:
        model: The `StellarModel`.
        measured: Calls, and their seconds before anything was changed.
        capture: What records calls.
        modes: Modes to try beside "eager".
        deadline: Value of `time.perf_counter` after which nothing more is compiled.

    Returns:
        The captured calls for the model, what was chosen, and lines about it.
    """
    captured = CapturedCalls(capture)
    contestants: dict[int, dict[Mode, CapturedCall]] = {index: {} for index in range(len(measured))}
    lines, late = [], set()
    for mode in (mode for mode in MODES[1:] if mode in modes):
        for index in reversed(range(len(measured))):  # large batches first: they gain most by compilation
            call = measured[index][0]
            if mode in ("blocks", "whole") and time.perf_counter() > deadline:
                late.add(f"{call.name} {call.batch_size} ({NAMES[mode]})")
                continue
            try:
                built = captured.build(model, call.method, mode, call.inputs, call.constants)
                if relative_difference(built(*call.inputs), call.run(model)) <= _max_difference(model, call):
                    contestants[index][mode] = built
            except Exception as error:  # compilers raise errors of many kinds; what cannot be built is not chosen
                lines.append(f"{call.name}: batch {call.batch_size} has no {NAMES[mode]}: {_first_line(error)}")
    choices = [
        _choose(model, captured, call, before, contestants[index]) for index, (call, before) in enumerate(measured)
    ]
    if late:
        lines.append(f"time was over before these were tried: {', '.join(sorted(late))}")
    return captured, choices, [*describe(choices), *lines]


def _choose(
    model: Any, captured: CapturedCalls, call: Call, before: float, built: Mapping[Mode, CapturedCall]
) -> Choice:
    runs: dict[Mode, Callable[[], Any]] = {"eager": partial(call.run, model)}
    runs |= {mode: partial(each, *call.inputs) for mode, each in built.items()}
    seconds = interleaved_medians(runs, model.device)
    best = min(seconds, key=lambda mode: seconds[mode])
    if seconds[best] > MAX_TIME_RATIO * seconds["eager"]:
        best = "eager"
    graph_pays = seconds.get("graph", math.inf) <= MAX_TIME_RATIO * seconds["eager"]
    captured.keep(call.method, call.inputs, best, graph_pays)
    if best != "eager":
        captured.add(model, call.method, call.inputs, call.constants, built[best])
    return Choice(call.name, call.batch_size, NAMES[best], before, seconds[best])


def _max_difference(model: Any, call: Call) -> float:
    chooses_codes = call.name == "decode" and model.tokenizer is not None
    return (MAX_DIFFERENCE_OF_CODES if chooses_codes else MAX_DIFFERENCE).get(model.dtype, 0)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def describe(choices: Sequence[Choice]) -> list[str]:
    """Returns a line for each method."""
    return [
        f"{name}: "
        + "; ".join(
            f"batch {each.batch_size} {each.kept}, {milliseconds(each.seconds_before, each.seconds_after)}"
            for each in choices
            if each.name == name
        )
        for name in dict.fromkeys(each.name for each in choices)
    ]
