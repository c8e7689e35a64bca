"""All that `optimize_for_inference` may keep on a device, one by one, for benchmarks and tests that try each alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from stellar_hub.modeling.captured_calls import MODES, CapturedCalls, Mode
from stellar_hub.modeling.float8 import check_float8
from stellar_hub.modeling.graph_capture import Capture, default_capture
from stellar_hub.modeling.inference_variants import FLOAT8, NOT_CHANGED, Variant, encoder_part, parts_of


class Candidate(NamedTuple):
    """A change to a model.

    Attributes:
        name: What it is, such as "tokenizer: channels first" or "calls: graph".
        apply: Changes a `StellarModel` in place, for all shapes. A copy may be given: `apply(copy.deepcopy(model))`.
        exact: Whether results stay within rounding of the model's type; False for float8.
    """

    name: str
    apply: Callable[[Any], None]
    exact: bool = True


def candidates(model: Any, make_capture: Callable[[torch.device], Capture | None] = default_capture) -> list[Candidate]:
    """Returns what `optimize_for_inference` would measure for a model of this device and dtype.

    Args:
        model: A `StellarModel` in evaluation mode, whose weights take no gradients.
        make_capture: Returns what captures calls on a device, or None if nothing does.
    """
    found = [
        Candidate(f"{part.name}: {variant.name}", _change_part(part.name, variant))
        for part in parts_of(model)
        for variant in part.variants
        if variant != NOT_CHANGED
    ]
    if model.dtype == torch.bfloat16 and _has_float8(model.device):
        found.append(Candidate(f"encoder: {FLOAT8.name}", _convert_encoder, exact=False))
    if make_capture(model.device) is not None:
        found += [Candidate(f"calls: {mode}", _capture_calls(mode, make_capture)) for mode in MODES if mode != "eager"]
    return found


def _change_part(name: str, variant: Variant) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        next(part for part in parts_of(model) if part.name == name).apply(variant)

    return apply


def _convert_encoder(model: Any) -> None:
    encoder_part(model, (NOT_CHANGED, FLOAT8)).apply(FLOAT8)


def _capture_calls(mode: Mode, make_capture: Callable[[torch.device], Capture | None]) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        capture = make_capture(model.device)
        model._captured = None if capture is None else CapturedCalls(capture, default=mode)

    return apply


def _has_float8(device: torch.device) -> bool:
    try:
        check_float8(device)
    except (ImportError, ValueError):
        return False
    return True
