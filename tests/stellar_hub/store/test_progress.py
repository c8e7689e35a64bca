from collections.abc import Iterator

import pytest

from stellar_hub import progress as shown_progress
from stellar_hub.store import progress
from stellar_hub.store.progress import ExtractionProgress


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the progress bar."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(shown_progress, "time", clock)
    return clock


def test_progress__counts_rows_errors_and_waiting(clock: Clock) -> None:
    def slow() -> Iterator[int]:
        clock.now += 3
        yield 1

    with ExtractionProgress(10, done=4, enabled=False) as shown:
        assert list(shown.waiting_for(slow())) == [1]
        clock.now += 1
        shown.update(2, 1)
    assert (shown.rows, shown.errors, shown.seconds) == (2, 1, 4)
    assert (shown.waiting_share, shown.rows_per_second) == (0.75, 0.5)
    assert str(shown) == "1 errors, 75% waiting for data"


def test_log_file__gets_a_line_every_half_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ExtractionProgress(6) as shown:
        for seconds in (20, 20, 20):
            clock.now += seconds
            shown.update(2, 0)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["4/6 rows"]
