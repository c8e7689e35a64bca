import time

import pytest

from stellar_hub.store import progress
from stellar_hub.store.progress import ExtractionProgress


def test_progress__counts_rows_errors_and_waiting() -> None:
    def slow() -> object:
        yield 1
        time.sleep(0.05)
        yield 2

    with ExtractionProgress(10, done=4, enabled=False) as shown:
        assert list(shown.waiting_for(slow())) == [1, 2]
        shown.update(3, 1)
    assert (shown.rows, shown.errors) == (3, 1)
    assert 0.5 < shown.waiting_share <= 1
    assert shown.rows_per_second == pytest.approx(3 / shown.seconds, rel=0.1)
    assert str(shown).startswith("7/10 rows, ")


def test_log_file__gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    with ExtractionProgress(4) as shown:
        shown.update(2, 0)
        shown.update(2, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["2/4 rows", "4/4 rows"]
    assert "1 errors" in lines[1]
    assert "waiting for data" in lines[1]
