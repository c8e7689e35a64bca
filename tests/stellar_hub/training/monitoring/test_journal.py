"""The journal of a run: strict lines, crashes in the middle of one, and resuming."""

import builtins
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.training.monitoring.journal import Journal, read_journal
from tests.stellar_hub.training.conftest import files_up_to


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of the steps 10, 20 and 30."""
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        journal.write(step, {"loss": 1 / step})
    return journal


def steps(journal: Journal) -> list[int]:
    return [int(record["step"]) for record in read_journal(journal.path)]


def test_write__makes_one_line_of_json_each(journal: Journal) -> None:
    lines = journal.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": step, "loss": 1 / step} for step in (10, 20, 30)]


def test_write__takes_tensors(journal: Journal) -> None:
    journal.write(40, {"loss": torch.tensor(0.5)})  # type: ignore[dict-item]
    assert read_journal(journal.path)[-1] == {"step": 40, "loss": 0.5}


def test_write__keeps_json_strict_where_numbers_are_not_finite(journal: Journal) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    journal.write(40, {"nan": math.nan, "inf": math.inf, "minus": -math.inf})
    json.loads(journal.path.read_text().splitlines()[-1], parse_constant=refuse)
    record = read_journal(journal.path)[-1]
    assert math.isnan(record["nan"])
    assert (record["inf"], record["minus"]) == (math.inf, -math.inf)


def test_write__refuses_a_number_named_step(journal: Journal) -> None:
    with pytest.raises(ValueError, match="'step'"):
        journal.write(40, {"step": 1.0})


def test_write__needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "absent" / "metrics.jsonl").write(1, {})


@pytest.mark.parametrize("torn", ['{"step": 40, "lo', '{"step": 40}', "\0\0\0"])
def test_read__leaves_out_a_torn_last_line(journal: Journal, torn: str) -> None:
    with open(journal.path, "a") as file:
        file.write(torn)
    assert steps(journal) == [10, 20, 30]


def test_write__drops_a_torn_line_before_it(journal: Journal) -> None:
    with open(journal.path, "a") as file:
        file.write('{"step": 40, "lo')
    journal.write(50, {})
    assert steps(journal) == [10, 20, 30, 50]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "nan"}', "\udc80"])
def test_read__names_a_damaged_line_in_the_middle(journal: Journal, line: str) -> None:
    text = journal.path.read_text().splitlines(keepends=True)
    journal.path.write_bytes("".join([text[0], line + "\n", text[2]]).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="line 2"):
        read_journal(journal.path)


def test_read__needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_journal(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(("step", "left"), [(0, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])])
@pytest.mark.parametrize("torn", ["", '{"step": 3'])
def test_truncate_after__forgets_later_and_torn_lines(journal: Journal, step: int, left: list[int], torn: str) -> None:
    with open(journal.path, "a") as file:
        file.write(torn)
    journal.truncate_after(step)
    assert steps(journal) == left
    assert not journal.path.read_bytes() or journal.path.read_bytes().endswith(b"\n")
    journal.write(step + 1, {})
    assert steps(journal) == [*left, step + 1]


def test_truncate_after__keeps_what_it_removes_under_another_name(journal: Journal) -> None:
    before = journal.path.read_bytes()
    aside = journal.truncate_after(10)
    assert aside == journal.path.with_name("metrics-to-step-000030.jsonl")
    assert aside.read_bytes() == before
    for step, value in ((20, 1.0), (30, 2.0)):
        journal.write(step, {"loss": value})
    again = journal.truncate_after(10)
    assert again == journal.path.with_name("metrics-to-step-000030-2.jsonl")
    assert aside.read_bytes() == before


def test_truncate_after__writes_no_copy_where_no_step_goes(journal: Journal) -> None:
    with open(journal.path, "a") as file:
        file.write('{"step": 3')
    assert journal.truncate_after(30) is None
    assert [path.name for path in journal.path.parent.iterdir()] == ["metrics.jsonl"]


def test_truncate_after__keeps_lines_to_the_byte(journal: Journal) -> None:
    before = journal.path.read_bytes()
    journal.truncate_after(30)
    assert journal.path.read_bytes() == before


def test_truncate_after__without_a_file_does_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "metrics.jsonl").truncate_after(5)
    assert list(tmp_path.iterdir()) == []


def test_truncate_after__leaves_the_old_file_if_writing_fails(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        journal.truncate_after(10)
    assert steps(journal) == [10, 20, 30]
    assert [path.name for path in journal.path.parent.iterdir()] == ["metrics.jsonl"]


def test_write__after_a_write_that_was_cut_short_loses_that_line_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = builtins.open

    class HalfWriter:
        """Writes half of what it is given, then finds the disk full."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "HalfWriter":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            raise OSError("No space left on device")

    def open_half(path: Any, mode: str = "r", **kwargs: Any) -> Any:
        file = real_open(path, mode, **kwargs)
        return HalfWriter(file) if mode == "ab" else file

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", open_half)
        with pytest.raises(OSError, match="No space left"):
            journal.write(40, {"loss": 1.0})
    assert steps(journal) == [10, 20, 30]
    journal.write(40, {"loss": 1.0})
    assert steps(journal) == [10, 20, 30, 40]


@given(cut=st.integers(0, 60))
def test_read__gives_what_is_whole_wherever_the_file_ends(cut: int) -> None:
    data = b'{"step": 10, "loss": 1.0}\n{"step": 20, "loss": "nan"}\n'
    whole = data[:cut].count(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(data[:cut])
        assert [record["step"] for record in read_journal(path)] == [10, 20][:whole]


def test_write__names_the_file_where_the_disk_is_full(journal: Journal) -> None:
    with files_up_to(journal.path.stat().st_size + 5), pytest.raises(OSError, match=str(journal.path)):
        journal.write(40, {"loss": 1.0})
    assert steps(journal) == [10, 20, 30]
    journal.write(50, {"loss": 1.0})
    assert steps(journal) == [10, 20, 30, 50]
