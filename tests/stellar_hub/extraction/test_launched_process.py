import pytest

from stellar_hub.extraction.launched_process import LaunchedProcess, num_workers_for


def test_process__is_alone_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert LaunchedProcess.from_environment() == LaunchedProcess(0, 1, 0, 1)


def test_process__is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert LaunchedProcess.from_environment() == LaunchedProcess(5, 8, 1, 4)


def test_rank__beyond_the_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="the environment says rank 2 of 2 processes"):
        LaunchedProcess.from_environment()


def test_workers__share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(32)))
    assert num_workers_for(LaunchedProcess()) == 16
    assert num_workers_for(LaunchedProcess(num_local_processes=8)) == 4
    assert num_workers_for(LaunchedProcess(num_local_processes=64)) == 1
