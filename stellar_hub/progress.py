"""Progress of long work on standard error: a bar on a terminal, and a line now and then elsewhere, as in a log file."""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

ItemT = TypeVar("ItemT")
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_BEATS = 1.0


class Progress:
    """A progress bar on a terminal; elsewhere a line at least every 30 seconds while the work goes on.

    Args:
        total: Number of units of the whole work; None if it is not known.
        unit: What is counted, in the singular, such as "image".
        description: Text at the beginning of the bar and of each line.
        done: Number of units that an earlier run has done.
        enabled: Whether to show anything.
        leave: Whether the bar stays on the terminal at the end.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        description: str = "",
        *,
        done: int = 0,
        enabled: bool = True,
        leave: bool = True,
    ):
        self._enabled = enabled
        self._has_bar = enabled and shows_a_bar()
        self._count, self._done, self._total, self._unit, self._description = done, done, total, unit, description
        self._start = self._last_line = time.perf_counter()
        options: dict[str, Any] = {"desc": description or None, "unit": unit, "leave": leave, "smoothing": 0.1}
        self._bar = tqdm(
            total=total, initial=done, disable=not self._has_bar, dynamic_ncols=True, file=sys.stderr, **options
        )

    def update(self, count: int = 1, text: str = "") -> None:
        """Adds units that are done, and shows a text behind the numbers."""
        self._count += count
        if self._has_bar:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count)
        elif self._enabled and time.perf_counter() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.perf_counter()
            self.note(self._line(text))

    @contextmanager
    def keep_showing(self) -> Iterator[None]:
        """Shows progress while one unit may take long: the clock of the bar goes on, and lines come as promised."""
        ended = threading.Event()

        def show() -> None:
            while not ended.wait(SECONDS_BETWEEN_BEATS):
                if self._has_bar:
                    self._bar.refresh()
                else:
                    self.update(0)

        thread = threading.Thread(target=show, daemon=True)
        if self._enabled:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._enabled:
                thread.join()

    def note(self, text: str) -> None:
        """Writes a line of its own to standard error, above the bar where there is one."""
        if self._has_bar:
            self._bar.write(text, file=sys.stderr)
        elif self._enabled:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def _line(self, text: str) -> str:
        rate = (self._count - self._done) / max(time.perf_counter() - self._start, 1e-9)
        total = "" if self._total is None else f"/{self._total}"
        units = f"{self._unit}es" if self._unit.endswith("tch") else f"{self._unit}s"
        parts = [f"{self._count}{total} {units}, {rate:.3g} {units}/s", text]
        if self._total is not None and rate > 0:
            parts.append(f"{tqdm.format_interval((self._total - self._count) / rate)} left")
        line = ", ".join(part for part in parts if part)
        return f"{self._description}: {line}" if self._description else line

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def track(
    items: Iterable[ItemT], description: str, total: int | None = None, unit: str = "batch", enabled: bool = True
) -> Iterator[ItemT]:
    """Yields items and shows how many are done; the bar disappears at the end.

    Args:
        items: The items.
        description: Text at the beginning of the bar and of each line.
        total: Number of items; None asks the items for their length.
        unit: What an item is, in the singular.
        enabled: Whether to show anything.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, unit, description, enabled=enabled, leave=False) as progress:
        for item in items:
            yield item
            progress.update()


def shows_a_bar() -> bool:
    """Whether standard error is a terminal with a size; the terminals of containers may have none."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, AttributeError, ValueError):
        return False
