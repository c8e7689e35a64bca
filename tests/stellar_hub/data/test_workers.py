import os
import signal

import pytest

from stellar_hub.data.workers import default_num_workers, leave_interrupt_to_parent, num_cores


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
