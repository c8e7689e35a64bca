import io
import threading

import pytest

from stellar_hub import progress
from stellar_hub.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress__without_a_terminal_writes_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress(4, "image", "encoding", done=1) as shown:
        shown.update(2, "1 error")
    line = capsys.readouterr().err
    assert line.startswith("encoding: 3/4 images, ")
    assert "1 error" in line


def test_progress__without_a_terminal_is_silent_when_the_work_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "encoding")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_progress__on_a_terminal_draws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "shows_a_bar", lambda: True)
    assert list(track(iter([1, 2]), "encoding", total=2, unit="image")) == [1, 2]
    assert "encoding" in stream.getvalue()
    assert "0/2" in stream.getvalue()


def test_progress__goes_on_while_one_unit_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_BEATS", 0.0)
    shown, said = threading.Event(), progress.Progress.note
    monkeypatch.setattr(progress.Progress, "note", lambda self, text: (said(self, text), shown.set()))
    with Progress(2, "fit", "fitting") as work, work.keep_showing():
        assert shown.wait(60)
    assert capsys.readouterr().err.startswith("fitting: 0/2 fits")


def test_progress__disabled_writes_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress(2, "image", enabled=False) as shown:
        shown.update()
        shown.note("a note")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_shows_a_bar__needs_a_terminal(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    assert not progress.shows_a_bar()


def test_progress__counts_batches_in_the_plural(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    list(track([1, 2], "encoding"))
    list(track([1, 2], "training", unit="epoch"))
    shown = capsys.readouterr().err
    assert "1/2 batches, " in shown
    assert "1/2 epochs, " in shown
