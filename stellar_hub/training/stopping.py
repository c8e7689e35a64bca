"""Ending a run early: on request, after the step at hand, or because its loss is not finite."""

import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from stellar_hub.training.step import StepResult

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Turns the first SIGTERM or Ctrl-C into a request; a second Ctrl-C interrupts at once.

    Attributes:
        signal_number: The signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: whoever started it deals with signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: it was not Python that set it, and cannot be Python that sets it back
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


def leave_to_parent(worker_id: int) -> None:
    """Let a data worker ignore both signals, which often reach the whole group: its parent still needs batches.

    SIGTERM from the parent itself ends it, so that the parent can end a worker that hangs. That takes a system that
    says who sent a signal, and a worker that was forked: one that was spawned has threads which take the signal first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # of the threads to come too
    threading.Thread(target=end_with, args=(parent.pid,), daemon=True).start()


def end_with(parent: int) -> None:
    """Wait for the parent's SIGTERM, and end this process as torch's own workers end on it."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


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
        NonFiniteLossError: naming terms, images, and the checkpoint to go back to.
    """
    values = dict(result.losses) if scaled else {**result.losses, "gradient_norm": result.gradient_norm}
    stacked = torch.stack([value.float() for value in values.values()])
    if bool(torch.isfinite(stacked).all()):
        return
    terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(values, stacked.tolist(), strict=True))
    kept = f"the last good checkpoint is {last_checkpoint}" if last_checkpoint else "there is no checkpoint yet"
    images = "\n  ".join(result.paths)
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} ({terms}); {kept}. Lower the learning rate, or look at the images "
        f"of this step:\n  {images}"
    )
