"""Looking at a model in the middle of its training without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stellar_hub.training.checkpoints.run_state import random_state, restore_random_state


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Lets a model be called without gradients and in evaluation mode; afterwards everything is as it was before.

    Each module, frozen or not, gets its own mode back, and the global random numbers go on where they were. Compiled
    modules are called as they were written: another mode, another size of batch would be compiled for a minute, and
    would count for how later batches are compiled.
    """
    modes = [(module, module.training) for module in model.modules()]
    compiled: list[tuple[Any, Any]] = [
        (module, module._compiled_call_impl) for module in model.modules() if module._compiled_call_impl is not None
    ]
    with kept_random_state():
        model.eval()
        for module, _ in compiled:
            module._compiled_call_impl = None
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, call in compiled:
                module._compiled_call_impl = call


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Sets every global random number generator back to its state afterwards."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
