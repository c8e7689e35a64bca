"""Signals become requests while a run goes, and are what they were when it is over."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.stop_signals import ECHO
from stellar_hub.training import stopping
from stellar_hub.training.model import StellarPreTrainingOutput
from stellar_hub.training.step import StepResult
from stellar_hub.training.stopping import (
    SIGNALS,
    NonFiniteLossError,
    StopRequest,
    check_finite,
    leave_signals_to_parent,
)


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


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal__is_a_request(number: int, handlers: dict[int, object]) -> None:
    with StopRequest() as request:
        assert request.signal_number is None
        send(number)
        assert request.signal_number == number
    assert current() == handlers


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal__is_explained_while_a_step_computes(number: int, clock: Clock) -> None:
    said: Queue[str] = Queue()
    with StopRequest(said.put, clock):
        send(number)
        assert said.get(timeout=60).startswith(f"{signal.Signals(number).name}: the run finishes its step")
    assert said.empty()


def test_first_signal__is_explained_in_an_interactive_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    said: list[str] = []
    with StopRequest(said.append) as request:
        assert request._thread is None
        send(signal.SIGINT)
    assert len(said) == 1


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize(("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_second_signal__ends_the_run_at_once(
    first: int, second: int, error: type[BaseException], clock: Clock, handlers: dict[int, object]
) -> None:
    ended: list[int] = []
    with StopRequest(clock=clock, end=ended.append):
        send(first)
        clock.now += ECHO
        with pytest.raises(error) as caught:
            send(second)
    assert getattr(caught.value, "code", 143) == 143
    assert ended == []  # Python has done it
    assert current() == handlers


def test_second_signal__during_one_long_call_ends_the_process(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 0.01)
    ended: list[int] = []
    request = StopRequest(clock=clock, end=ended.append)
    for _ in range(2):  # Python calls no handler meanwhile
        request._hear(signal.SIGTERM)
        clock.now += ECHO
    assert ended == [143]


@pytest.mark.parametrize("number", SIGNALS)
def test_echo_of_a_signal__changes_nothing(number: int, clock: Clock) -> None:
    with StopRequest(clock=clock, end=pytest.fail) as request:
        send(signal.SIGINT)
        clock.now += ECHO / 2
        send(number)
        assert request.signal_number == signal.SIGINT


def test_other_code_that_listens__keeps_its_file() -> None:
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    with ear, mouth:
        assert signal.set_wakeup_fd(mouth.fileno()) == -1
        try:
            with StopRequest() as request:
                assert request._thread is None
        finally:
            assert signal.set_wakeup_fd(-1) == mouth.fileno()


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
    leave_signals_to_parent(0)
    for number in SIGNALS:
        send(number)
    assert current() == dict.fromkeys(SIGNALS, signal.SIG_IGN)


# A data worker that waits for a lock nobody gives up, forked by a process without the threads of other tests.
HANGING_WORKER = """
import multiprocessing, subprocess, threading
from stellar_hub.training.stopping import SIGNALS, leave_signals_to_parent

def wait_for_ever(ready):
    leave_signals_to_parent(0)
    ready.set()
    threading.Event().wait()

context = multiprocessing.get_context("fork")
ready = context.Event()
worker = context.Process(target=wait_for_ever, args=(ready,), daemon=True)
worker.start()
assert ready.wait(600)
for number in SIGNALS:
    subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
worker.join(0.5)
print("alive", worker.is_alive())
worker.terminate()
worker.join(600)
print("exit code", worker.exitcode)
"""


def test_data_worker__that_hangs_obeys_its_parent_alone() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING_WORKER], capture_output=True, text=True, timeout=1500)
    assert done.stdout.splitlines() == ["alive True", "exit code 0"], done.stderr


PATHS = ["images/a.png", "images/b.png"]


def result(loss: float = 1.0, mask_loss: float = 0.5, gradient_norm: float = 2.0) -> StepResult:
    losses = {"loss": torch.tensor(loss), "mask_loss": torch.tensor(mask_loss)}
    return StepResult(losses, torch.tensor(gradient_norm), StellarPreTrainingOutput(), PATHS)


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_check__raises_exactly_where_a_number_is_not_finite(values: list[float]) -> None:
    if all(map(math.isfinite, values)):
        check_finite(1, result(*values), None)
    else:
        with pytest.raises(NonFiniteLossError):
            check_finite(1, result(*values), None)


def test_check__holds_for_half_precision() -> None:
    numbers = result()
    numbers.losses["loss"] = torch.tensor(float("inf"), dtype=torch.float16)
    with pytest.raises(NonFiniteLossError, match="loss inf"):
        check_finite(1, numbers, None)


def test_message__names_terms_images_checkpoint_and_what_to_do() -> None:
    with pytest.raises(NonFiniteLossError) as caught:
        check_finite(7, result(mask_loss=math.nan), Path("run/checkpoints/step-000004"))
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 7 (loss 1, mask_loss nan, gradient_norm 2); ")
    assert "the last good checkpoint is run/checkpoints/step-000004" in message
    assert "Lower the learning rate" in message
    assert all(path in message for path in PATHS)


def test_message__says_that_there_is_no_checkpoint_yet() -> None:
    with pytest.raises(NonFiniteLossError, match="the run has no checkpoint yet"):
        check_finite(1, result(loss=math.inf), None)


def test_scaler__deals_with_an_infinite_gradient_itself() -> None:
    check_finite(1, result(gradient_norm=math.inf), None, scaled=True)
    with pytest.raises(NonFiniteLossError):
        check_finite(1, result(loss=math.nan), None, scaled=True)
