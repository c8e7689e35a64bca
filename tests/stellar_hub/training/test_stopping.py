"""Signals become requests while a run goes, and are what they were when it is over."""

import math
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    leave_signals_to_parent(0)
    for number in SIGNALS:
        send(number)
    assert current() == dict.fromkeys(SIGNALS, signal.SIG_IGN)


def wait_for_ever(ready: Any) -> None:
    """A data worker that waits for a lock nobody gives up."""
    leave_signals_to_parent(0)
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
