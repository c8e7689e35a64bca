"""The early end of a run: after a signal, or because a loss is not finite."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.stop_signals import SignalCount
from stellar_hub.training.step import StepResult

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 1.0  # seconds that Python has to end the run by itself at the second signal


class StopRequest:
    """A request to stop, which the first SIGTERM or Ctrl-C makes. A second one ends the process at once.

    Python calls handlers between two of its own instructions, but one call of torch may take a minute. A thread
    therefore hears signals as they come: it says what the first one does, and ends the process at the second one unless
    Python does so within a second. Interactive sessions have no such thread, as their process must not end.

    Args:
        say: Function that shows a line.
        clock: Function that returns the time in seconds.
        end: Function that ends the process with an exit code.

    Attributes:
        signal_number: Number of the signal that was received, or None.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self.signal_number: int | None = None
        self._say, self._end = say, end
        self._received, self._heard = SignalCount(clock), SignalCount(clock)
        self._is_ending = threading.Event()
        self._before: dict[int, Any] = {}
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: the code that started the thread handles signals
                return self
        if not hasattr(sys, "ps1"):
            self._start_listening()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sockets is not None:
            signal.set_wakeup_fd(-1)
            self._sockets[1].close()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        for number, handler in self._before.items():
            if handler is not None:  # None: code outside Python set the handler, and Python cannot set it again
                signal.signal(number, handler)

    def _start_listening(self) -> None:
        """Starts the thread, unless other code listens to signals in this way."""
        ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            ear.close()
            mouth.close()
            return
        self._sockets = ear, mouth
        self._thread = threading.Thread(target=self._listen, args=(ear,), daemon=True)
        self._thread.start()

    def _listen(self, ear: socket.socket) -> None:
        """Hears the numbers of signals, until the other end is closed."""
        with ear:
            while number := ear.recv(1):
                if number[0] in SIGNALS:
                    self._hear(number[0])

    def _hear(self, number: int) -> None:
        """Says what the first signal does; a second one ends the process if Python does not."""
        count = self._heard.add()
        if count == 1:
            self._explain(number)
        elif count == 2 and not self._is_ending.wait(PATIENCE):
            self._end(128 + number)

    def _explain(self, number: int) -> None:
        self._say(
            f"{signal.Signals(number).name}: the run finishes its step, saves a checkpoint and stops; a second signal "
            "ends it at once, without a checkpoint"
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        count = self._received.add()
        if count == 1:
            self.signal_number = number
            if self._thread is None:
                self._explain(number)
        elif count == 2:
            self._is_ending.set()
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


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
    that tell who sent a signal, and for workers that were forked. Threads of a spawned one may take the signal first,
    and so may those that a library such as grpc starts while a process is forked.
    """
    signal.set_wakeup_fd(-1)  # else a forked worker would tell the parent of its own signals
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
