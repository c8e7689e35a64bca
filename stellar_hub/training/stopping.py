"""The early end of a run: after a signal, or because a loss is not finite."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.training.step import StepResult

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A request to stop, which the first SIGTERM or Ctrl-C makes. A second Ctrl-C interrupts at once.

    Attributes:
        signal_number: Number of the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: the code that started the thread handles signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: code outside Python set the handler, and Python cannot set it again
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


def agree_on_signal(accelerator: Accelerator, signal_number: int | None) -> int | None:
    """Returns the signal that any process has received, or None. All processes call it, in every step.

    Launchers kill their processes some seconds after SIGTERM, and a step may take long, so no step is left out.
    """
    if accelerator.num_processes == 1:
        return signal_number
    numbers = torch.tensor([signal_number or 0], device=accelerator.device)
    return int(accelerator.gather(numbers).max()) or None


def leave_signals_to_parent(worker_id: int) -> None:
    """Makes a data worker ignore both signals: they often reach the whole group, and the parent still needs batches.

    SIGTERM from the parent itself ends the worker, so that the parent can end one that hangs. This works on systems
    that tell who sent a signal, and for workers that were forked: threads of a spawned one may take the signal first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # also in threads that start later
    threading.Thread(target=exit_on_sigterm_from, args=(parent.pid,), daemon=True).start()


def exit_on_sigterm_from(parent: int) -> None:
    """Waits for a SIGTERM from the parent, and then ends this process as torch's own workers end."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


class NonFiniteLossError(RuntimeError):
    """A loss or the gradient is NaN or infinite."""


def check_finite(step: int, result: StepResult, last_checkpoint: Path | None, *, scaled: bool = False) -> None:
    """Raises NonFiniteLossError unless all losses and the gradient of a step are finite.

    It waits for the device, so on a GPU it is best called when the step has had time to finish.

    Args:
        step: Number of the step, counted from 1.
        result: Result of the step.
        last_checkpoint: The newest checkpoint, for the message, or None.
        scaled: Whether a gradient scaler is used, which skips steps with an infinite gradient by itself.

    Raises:
        NonFiniteLossError: it names the losses, the images, and the checkpoint to resume from.
    """
    values = dict(result.losses) if scaled else {**result.losses, "gradient_norm": result.gradient_norm}
    stacked = torch.stack([value.float() for value in values.values()])
    if bool(torch.isfinite(stacked).all()):
        return
    terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(values, stacked.tolist(), strict=True))
    kept = f"the last good checkpoint is {last_checkpoint}" if last_checkpoint else "the run has no checkpoint yet"
    images = "\n  ".join(one_line(mask_secrets(path)) for path in result.paths)
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} ({terms}); {kept}. Lower the learning rate, or check the images of "
        f"this step:\n  {images}"
    )
