import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest
from torch.utils.data import Dataset

from stellar_hub.data.streams import DamagedShardError
from stellar_hub.data.workers import (
    ImageLoader,
    WorkerError,
    default_num_workers,
    leave_interrupt_to_parent,
    num_cores,
    plain_error,
)


def have_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, 1, 1), (3, 1, 3), (8, 1, 8), (64, 1, 8), (8, 2, 4), (64, 4, 8), (2, 4, 1), (3, 0, 3)],
)
def test_default__is_a_share_of_the_allowed_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, expected: int
) -> None:
    have_cores(monkeypatch, cores)
    assert default_num_workers(processes) == expected


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_cores__without_affinity_are_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, count: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert num_cores() == expected


def test_worker__ignores_the_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        leave_interrupt_to_parent(0)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Items(Dataset[int]):
    """Three numbers; the second one does something first."""

    def __init__(self, action: Callable[[], object]):
        self.action = action

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 1:
            self.action()
        return index


def fail(error: Exception) -> None:
    raise error


def load(action: Callable[[], object], num_workers: int = 1) -> list[int]:
    return list(ImageLoader(Items(action), num_workers, batch_size=None))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader__returns_all(num_workers: int) -> None:
    assert load(int, num_workers) == [0, 1, 2]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("a.png: it is damaged"),
        DamagedShardError("a.tar: it is cut short"),
        OSError(errno.EMFILE, "Too many open files"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    ],
)
def test_error_of_the_data_set__is_raised_as_it_was(error: Exception, num_workers: int) -> None:
    kind = RuntimeError if isinstance(error, UnicodeDecodeError) and num_workers else type(error)
    with pytest.raises(kind) as raised:
        load(partial(fail, error), num_workers)
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


def test_chained_error__is_the_last_one() -> None:
    with pytest.raises(ValueError, match=r"^second$"):
        load(fail_twice)


def fail_twice() -> None:
    try:
        raise ValueError("first")
    except ValueError as error:
        raise ValueError("second") from error


def kill_this() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("action", [kill_this, partial(os._exit, 0), partial(os._exit, 3)])
def test_dead_worker__is_one_sentence(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.workers._POLL_SECONDS", 0.5)
    with pytest.raises(WorkerError, match="worker process") as error:
        load(action)
    assert str(error.value).isprintable()


def test_silent_worker__ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.workers._POLL_SECONDS", 0.2)
    monkeypatch.setenv("STELLAR_HUB_MAX_WORKER_SECONDS", "1")
    with pytest.raises(WorkerError, match="STELLAR_HUB_MAX_WORKER_SECONDS"):
        load(partial(time.sleep, 3600))


def test_slow_worker__is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.workers._POLL_SECONDS", 0.05)
    assert load(partial(time.sleep, 0.3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), r"pid 7\) was killed \(Killed\)"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), r"pid 7, 8\) ended"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "ConnectionResetError"),
        (EOFError(), "EOFError"),
        (RuntimeError("received 0 items of ancdata"), "too many files"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files"),
    ],
)
def test_end_of_a_worker__is_told_in_one_way(error: Exception, match: str) -> None:
    plain = plain_error(error)
    assert isinstance(plain, WorkerError)
    with pytest.raises(WorkerError, match=match):
        raise plain


def test_other_error__stays() -> None:
    error = RuntimeError("the loss is not finite")
    assert plain_error(error) is error
