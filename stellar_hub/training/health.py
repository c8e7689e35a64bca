"""Stopping a run whose loss is no number any more."""

from typing import Any

import torch

from stellar_hub.training.step import StepResult


class NonFiniteLossError(RuntimeError):
    """The loss, or the gradient, is NaN or infinite."""


def check_finite(step: int, result: StepResult, last_checkpoint: Any, *, scaled: bool = False) -> None:
    """Raise unless all losses and the gradient of a step are finite numbers.

    Waits for the device: on a GPU call it when the step has had time to finish.

    Args:
        step: The step, counted from 1.
        result: What it left.
        last_checkpoint: The newest one, for the message, or None.
        scaled: Whether a gradient scaler is at work, which skips steps whose gradient is infinite by itself.

    Raises:
        NonFiniteLossError: naming terms, pictures, and the checkpoint to go back to.
    """
    values = dict(result.losses) if scaled else {**result.losses, "gradient_norm": result.gradient_norm}
    stacked = torch.stack([value.float() for value in values.values()])
    if bool(torch.isfinite(stacked).all()):
        return
    terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(values, stacked.tolist(), strict=True))
    kept = f"the last good checkpoint is {last_checkpoint}" if last_checkpoint else "there is no checkpoint yet"
    pictures = "\n  ".join(result.paths)
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} ({terms}); {kept}. Lower the learning rate, or look at the pictures "
        f"of this step:\n  {pictures}"
    )
