"""`optimize_for_inference`, first step: parts of the model, each computed in the way that is fastest when measured."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .captured_calls import compile_blocks
from .float8 import MAX_DIFFERENCE_OF_FLOAT8, is_converted, keeps_encoding, linears, refuse_to_save
from .graph_capture import Capture, recorded
from .inference_report import Choice, milliseconds
from .inference_timing import MAX_DIFFERENCE, MAX_TIME_RATIO, interleaved_medians, relative_difference
from .inference_variants import FLOAT8, FLOAT8_MLP, NOT_CHANGED, Part, Variant, encoder_part


def choose_part(part: Part, batch_sizes: Sequence[int], device: torch.device, capture: Capture | None) -> list[Choice]:
    """Changes a part to its fastest variant, in place, and returns the measurements, none if memory was too small."""
    seconds = measure_part(part, batch_sizes, device, capture)
    best = best_variant(list(seconds.values()))
    if best != NOT_CHANGED:
        part.apply(best)
    return [Choice(part.name, batch, best.name, each[NOT_CHANGED], each[best]) for batch, each in seconds.items()]


@torch.no_grad()
def measure_part(
    part: Part, batch_sizes: Sequence[int], device: torch.device, capture: Capture | None, compiled: bool = False
) -> dict[int, dict[Variant, float]]:
    """Returns the median seconds of a part's variants by batch size, without sizes that do not fit into memory.

    A variant that fails, or whose result differs, is left out.

    Args:
        part: The part.
        batch_sizes: Numbers of images.
        device: Its device.
        capture: What records calls, so that the device is measured and not the host; None calls the modules.
        compiled: Whether the modules are compiled.
    """
    modules = {variant: part.changed(variant) for variant in part.variants}
    if compiled:
        compile_blocks(modules.values(), dynamic=False)
    found = {}
    for batch in batch_sizes:
        try:
            hidden_states = part.make_inputs(batch)
            found[batch] = interleaved_medians(_calls(part, modules, hidden_states, capture), device)
        except RuntimeError:
            if device.type == "cpu":
                raise
            continue  # memory is too small: libraries and captures have errors of their own for it
    return found


def _calls(
    part: Part, modules: dict[Variant, nn.Module], hidden_states: Tensor, capture: Capture | None
) -> dict[Variant, Callable[[], Any]]:
    expected = part.run(modules[NOT_CHANGED], hidden_states)
    limit = MAX_DIFFERENCE.get(expected.dtype, 0) if part.max_difference is None else part.max_difference
    calls: dict[Variant, Callable[[], Any]] = {}
    for variant, module in modules.items():

        def call(module: nn.Module = module) -> tuple[Tensor, ...]:
            return (part.run(module, hidden_states),)

        try:
            # The plain way stays even where its result is not finite: the others are compared with its time.
            if variant == NOT_CHANGED or relative_difference(call(), (expected,)) <= limit:
                calls[variant] = call if capture is None else recorded(capture, call)
        except RuntimeError:  # the library does not have it for this type, or memory is too small
            if variant == NOT_CHANGED:
                raise
    return calls


def best_variant(measured: Sequence[dict[Variant, float]]) -> Variant:
    """Returns the fastest variant of those that are faster at one batch size at least, and slower at none.

    Args:
        measured: For each batch size, the seconds of each variant, with `NOT_CHANGED` among them.
    """
    if not measured:
        return NOT_CHANGED
    common = [variant for variant in measured[0] if all(variant in each for each in measured)]
    ratios = {variant: [each[variant] / each[NOT_CHANGED] for each in measured] for variant in common}
    gains = {v: r for v, r in ratios.items() if min(r) <= MAX_TIME_RATIO and max(r) <= 1 / MAX_TIME_RATIO}
    return min(gains, key=lambda variant: math.prod(gains[variant]), default=NOT_CHANGED)


def describe(choices: Sequence[Choice], device: torch.device) -> str:
    """Returns a line about the choices for one part."""
    first = choices[0]
    times = ", ".join(
        f"{each.batch_size} images {milliseconds(each.seconds_before, each.seconds_after)}" for each in choices
    )
    unit = "a block with " if first.name in ("encoder", "decoder") else ""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{first.name}: {first.kept} ({unit}{times}{threads})"


def choose_float8(
    model: Any,
    images: Tensor,
    expected: tuple[Tensor, ...],
    batch_size: int,
    capture: Capture | None,
    compiled: bool,
) -> tuple[str, list[Choice]]:
    """Converts linear layers of the encoder to float8 where that is faster and keeps the encoding.

    It tries all of them, then those of the MLPs alone.

    Args:
        model: The `StellarModel`, in bfloat16.
        images: Images for `encode`.
        expected: `(S, L)` of the images from the model as it was.
        batch_size: Number of images of the measurement; large ones gain most.
        capture: What records calls.
        compiled: Whether blocks may be compiled. Without that, rounding takes more time than float8 saves.

    Returns:
        A line about it, and what was measured if float8 was kept.
    """
    if is_converted(model.encoder):  # a second call, whose weights torchao would refuse
        return "float8: weights of the encoder are quantized already, not changed", []
    reasons = []
    for variant in (FLOAT8, FLOAT8_MLP):
        part = encoder_part(model, (NOT_CHANGED, variant), MAX_DIFFERENCE_OF_FLOAT8)
        seconds = measure_part(part, [batch_size], model.device, capture, compiled)
        if best_variant(list(seconds.values())) != variant:
            reasons.append(f"{variant.name} are not faster")
            continue
        weights = [(layer, layer.weight) for block in part.modules for layer in linears(block)]
        part.apply(variant)
        kept, closeness = keeps_encoding(model.encode(images), expected)
        if kept:
            if compiled:
                compile_blocks(part.modules)
            model.register_state_dict_pre_hook(refuse_to_save)
            choices = [
                Choice("float8", batch, variant.name, each[NOT_CHANGED], each[variant])
                for batch, each in seconds.items()
            ]
            return f"{describe(choices, model.device)}; {closeness}", choices
        for layer, weight in weights:
            layer.weight = weight
        reasons.append(f"{variant.name} change the encoding too much: {closeness}")
    return f"float8: not kept; {'; '.join(reasons)}", []
