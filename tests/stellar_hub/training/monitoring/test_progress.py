"""What the terminal shows, and what it says about speed."""

import io
import os
import sys
import threading

import psutil
import pytest

from stellar_hub.training.monitoring import progress as module
from stellar_hub.training.monitoring.progress import RunProgress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1  # of no terminal: tqdm then asks for no size


def open_terminal(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] = (200, 40)) -> Terminal:
    """Put a terminal in stderr's place; within a test, since pytest replaces stderr after fixtures are made."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size(size))
    return terminal


def test_update__returns_the_speed_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    progress = RunProgress(total_steps=100, batch_size=8, enabled=False)
    for step in range(1, 6):
        progress.update(step, {}, waiting_seconds=50.0, step_seconds=100.0)
    for step in range(6, 26):
        facts = progress.update(step, {}, waiting_seconds=0.5, step_seconds=2.0)
    assert facts["images_per_second"] == pytest.approx(4.0)
    assert facts["data_wait_share"] == pytest.approx(0.25)
    assert facts["memory_gb"] == pytest.approx(psutil.Process().memory_info().rss / 1e9, rel=0.2)
    assert set(facts) == {"images_per_second", "data_wait_share", "memory_gb"}


def test_update__averages_time_and_not_speed() -> None:
    progress = RunProgress(total_steps=2, batch_size=6, enabled=False)
    progress.update(1, {}, 0.0, 1.0)
    assert progress.update(2, {}, 0.0, 3.0)["images_per_second"] == pytest.approx(3.0)


@pytest.mark.parametrize(("waiting", "seconds", "share"), [(0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (-1.0, 1.0, 0.0)])
def test_update__stays_finite_with_clocks_that_misbehave(waiting: float, seconds: float, share: float) -> None:
    facts = RunProgress(total_steps=2, enabled=False).update(1, {}, waiting, seconds)
    assert facts["data_wait_share"] == share
    assert facts["images_per_second"] < float("inf")


def test_update__writes_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(total_steps=25, batch_size=8, log_every=10) as progress:
        for step in range(1, 26):
            progress.update(step, {"loss": 2.5, "mask_loss": 1.25, "learning_rate": 0.1}, 0.5, 2.0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "\r" not in err
    assert [line.split(",")[0] for line in lines] == ["step 1/25", "step 10/25", "step 20/25", "step 25/25"]
    assert lines[1].startswith("step 10/25, 00:30 left, loss 2.5, 4 images/s, 25% waiting, ")
    assert lines[1].endswith(" GB, mask 1.25")
    assert "learning_rate" not in err


def test_update__keeps_showing_the_last_values(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(total_steps=10, log_every=2)
    progress.update(1, {"loss": 3.5}, 0.0, 1.0)
    progress.update(2, {}, 0.0, 1.0)
    assert "loss 3.5" in capsys.readouterr().err


def test_update__says_of_which_step_older_values_are(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(total_steps=3, log_every=1)
    for step, values in enumerate(({"loss": 3.5, "mask_loss": 1.25}, {}, {"loss": 3.0, "mask_loss": 1.0}), start=1):
        progress.update(step, values, 0.0, 1.0)
    first, second, third = capsys.readouterr().err.splitlines()
    assert "at step" not in first + third
    assert "loss 3.5 at step 1, " in second
    assert second.endswith(", at step 1: mask 1.25")


def test_update__draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with RunProgress(total_steps=10, start_step=4, batch_size=8) as progress:
        for step in range(5, 11):
            progress.update(step, {"loss": 2.5}, 0.5, 2.0)
        progress.note("checkpoint written")
    shown = terminal.getvalue()
    assert "4/10" in shown
    assert "10/10" in shown
    assert "loss 2.5" in shown
    assert "checkpoint written\n" in shown


def test_update__writes_plain_lines_on_a_terminal_without_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch, size=(0, 0))
    with RunProgress(total_steps=2, log_every=1) as progress:
        progress.update(1, {"loss": 2.5}, 0.5, 2.0)
    assert terminal.getvalue().startswith("step 1/2, ")


def test_note__writes_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(total_steps=10).note("checkpoint written")
    assert capsys.readouterr().err == "checkpoint written\n"


def test_progress__is_silent_when_not_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with RunProgress(total_steps=1, enabled=False) as progress:
        progress.update(1, {"loss": 1.0}, 0.0, 1.0)
        progress.note("checkpoint written")
    assert terminal.getvalue() == ""


def test_update__writes_a_line_after_a_silence_whatever_log_every_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    progress = RunProgress(total_steps=1000, log_every=1000)
    for step in (2, 3):
        progress.update(step, {}, 0.0, 1.0)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["step 2/1000", "step 3/1000"]


def test_step__that_takes_long_gets_a_line_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "MAX_SILENCE", 0.0)
    progress = RunProgress(total_steps=10, start_step=3)
    written = threading.Event()
    note = progress.note

    def record(text: str) -> None:
        note(text)
        written.set()

    monkeypatch.setattr(progress, "note", record)
    with progress:
        assert written.wait(60)
    assert capsys.readouterr().err.startswith("step 4/10 is not done after ")


def test_note__shows_neither_passwords_nor_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(total_steps=10).note("skipped image 1: https://me:secret@host/a.tar?sig=1\x1b[2J")
    assert capsys.readouterr().err == "skipped image 1: https://***@host/a.tar?***\n"
