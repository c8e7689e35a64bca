"""Signals become requests while a run goes, and are what they were when it is over."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stellar_hub.training.stop_request import SIGNALS, StopRequest, leave_to_parent


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """The handlers at the start, which are set back whatever happens."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield dict(before)
    for number, handler in before.items():
        signal.signal(number, handler)


def current() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal__is_a_request(number: int, handlers: dict[int, object]) -> None:
    with StopRequest() as request:
        assert request.signal_number is None
        send(number)
        assert request.signal_number == number
    assert current() == handlers


def test_second_interrupt__stops_at_once(handlers: dict[int, object]) -> None:
    with StopRequest():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert current() == handlers


def test_interrupt__after_a_request_to_end_stops_at_once() -> None:
    with StopRequest():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_second_request_to_end__changes_nothing() -> None:
    with StopRequest() as request:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM


def test_handlers__come_back_after_an_error(handlers: dict[int, object]) -> None:
    with pytest.raises(ValueError, match="mistake"), StopRequest():
        raise ValueError("a mistake")
    assert current() == handlers


def test_handlers__that_were_not_pythons_are_left(monkeypatch: pytest.MonkeyPatch, handlers: dict[int, object]) -> None:
    with StopRequest() as request:
        request._before = dict.fromkeys(SIGNALS)  # what signal.signal returns for those
    assert current() != handlers


def test_other_thread__trains_without_handlers(handlers: dict[int, object]) -> None:
    found: list[object] = []

    def run() -> None:
        with StopRequest() as request:
            found.extend([request.signal_number, current() == handlers])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None, True]


def test_workers__leave_signals_to_their_parent() -> None:
    leave_to_parent(0)
    for number in SIGNALS:
        send(number)
    assert current() == dict.fromkeys(SIGNALS, signal.SIG_IGN)


def wait_for_ever(ready: Any) -> None:
    """A data worker that waits for a lock nobody gives up."""
    leave_to_parent(0)
    ready.set()
    threading.Event().wait()


def test_data_worker__that_hangs_obeys_its_parent_alone() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=wait_for_ever, args=(ready,), daemon=True)
    worker.start()
    try:
        assert ready.wait(60)
        for number in SIGNALS:
            subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
        worker.join(0.5)
        assert worker.is_alive()
        worker.terminate()
        worker.join(20)
        assert worker.exitcode == 0
    finally:
        worker.kill()
