"""Ending a run on request: the step at hand is finished, a checkpoint saved."""

import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

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
