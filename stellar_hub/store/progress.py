"""Progress of an extraction: a bar on a terminal, and a line every half minute elsewhere."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from stellar_hub.progress import Progress

ItemT = TypeVar("ItemT")


class ExtractionProgress:
    """Counts rows, errors and the time that the model waits for images, and shows them on stderr.

    Args:
        total: Number of rows to extract.
        done: Number of these rows that an earlier run has extracted.
        enabled: Whether to show anything; the counts do not depend on it.

    Attributes:
        rows: Number of rows that this run has extracted.
        errors: Number of these rows that have an error.
    """

    def __init__(self, total: int, done: int = 0, enabled: bool = True):
        self.rows = 0
        self.errors = 0
        self._waiting = 0.0
        self._start = time.perf_counter()
        self._shown = Progress(total, "row", done=done, enabled=enabled)

    def waiting_for(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yields the items; the time until each item comes counts as waiting."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waiting += time.perf_counter() - start
            yield item

    def update(self, rows: int, errors: int) -> None:
        """Adds rows that are extracted, and how many of them have an error."""
        self.rows += rows
        self.errors += errors
        self._shown.update(rows, str(self))

    @property
    def seconds(self) -> float:
        """Seconds since the start of this run."""
        return time.perf_counter() - self._start

    @property
    def rows_per_second(self) -> float:
        """Rows per second of this run."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """Share of the time that the model waits for images, in [0, 1]."""
        return min(self._waiting / max(self.seconds, 1e-9), 1.0)

    def __str__(self) -> str:
        return f"{self.errors} errors, {self.waiting_share:.0%} waiting for data"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.close()
