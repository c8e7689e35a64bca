"""Telling requests to stop apart: launchers and `timeout` send one request as several signals."""

from collections.abc import Callable

ECHO = 0.5  # seconds: they pass a signal on to processes that received it, too, so that it comes twice


class SignalCount:
    """Tells the first request to stop from the second one.

    Args:
        clock: Function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: float | None = None

    def add(self) -> int:
        """Returns 1 for the first signal, 2 for one that comes later, and 0 for an echo of the first one."""
        now = self._clock()
        if self._first is None:
            self._first = now
            return 1
        return 2 if now - self._first >= ECHO else 0
