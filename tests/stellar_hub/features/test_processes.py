import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.features.processes import Processes


def test_process__is_alone_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment() == Processes(0, 1, 0, 1)


def test_process__is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert Processes.from_environment() == Processes(5, 8, 1, 4)


def test_rank__beyond_the_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="rank 2 of 2 processes"):
        Processes.from_environment()


@given(total=st.integers(0, 100), count=st.integers(1, 9))
def test_shares__are_disjoint_together_all_and_about_equal(total: int, count: int) -> None:
    shares = [Processes(index, count).share(total) for index in range(count)]
    assert [item for share in shares for item in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process__gathers_its_own() -> None:
    alone = Processes()
    rows = torch.rand(3, 2)
    assert alone.gather([1, 2]) == [1, 2]
    assert torch.equal(alone.gather_rows(rows), rows)
    assert alone.is_main
    alone.raise_together(None)
    with pytest.raises(KeyError):
        alone.raise_together(KeyError("mine"))


def test_launched__without_a_launcher_is_one_on_the_device_named() -> None:
    launched = Processes.launched("cpu")
    assert launched == Processes(0, 1, 0, 1, "cpu")
