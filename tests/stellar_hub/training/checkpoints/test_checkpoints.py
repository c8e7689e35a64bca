"""Checkpoints are there whole or not at all, whatever goes wrong while they are written or removed."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from stellar_hub.modeling import atomic_write
from stellar_hub.old_names import old_names
from stellar_hub.training.checkpoints.checkpoints import STATE_FILE, Checkpoints, check_whole, read_state
from stellar_hub.training.checkpoints.digests import DIGESTS_FILE


def writer(step: int, content: bytes = b"weights") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)
        (folder / STATE_FILE).write_text(json.dumps({"step": step}))

    return write


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, writer(step))


def unfinished(checkpoints: Checkpoints, step: int) -> Path:
    """The folder that a checkpoint is written into."""
    return checkpoints.folder / f".step-{step:06d}.part"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails_with(error: BaseException) -> Callable[[Path], None]:
    """Writes a part, then fails."""

    def write(folder: Path) -> None:
        writer(0, b"half")(folder)
        raise error

    return write


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


class TestSave:
    def test_save__leaves_one_whole_folder_and_nothing_else(self, checkpoints: Checkpoints) -> None:
        path = checkpoints.save(200, writer(200))
        assert path == checkpoints.folder / "step-000200" == checkpoints.latest()
        assert names_in(checkpoints.folder) == ["step-000200"]
        assert names_in(path) == [DIGESTS_FILE, "model.safetensors", STATE_FILE]

    def test_save__is_on_the_disk_before_it_has_its_name(
        self, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []

        def replace(source: Path, target: Path) -> None:
            events.append("renamed")
            os.rename(source, target)

        monkeypatch.setattr(atomic_write, "sync", lambda path: events.append(path.name))
        monkeypatch.setattr(os, "replace", replace)
        save(checkpoints, 1)
        before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
        assert set(before) == {DIGESTS_FILE, "model.safetensors", STATE_FILE, ".step-000001.part"}
        assert after == ["checkpoints"]

    def test_save__replaces_the_same_step(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1, 2)
        checkpoints.save(2, writer(2, b"newer"))
        assert (checkpoints.path(2) / "model.safetensors").read_bytes() == b"newer"
        assert names_in(checkpoints.folder) == ["step-000001", "step-000002"]

    def test_save__replaces_a_half_folder(self, checkpoints: Checkpoints) -> None:
        checkpoints.path(3).mkdir(parents=True)
        (checkpoints.path(3) / "model.safetensors").write_bytes(b"half")
        assert checkpoints.steps() == []
        assert checkpoints.latest() is None
        save(checkpoints, 3)
        assert checkpoints.steps() == [3]
        assert (checkpoints.path(3) / "model.safetensors").read_bytes() == b"weights"

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            SafetensorError("I/O error: No space left on device (os error 28)"),
            RuntimeError("[enforce fail at inline_container.cc:671]"),
        ],
    )
    def test_full_disk__leaves_earlier_ones_and_no_part(self, checkpoints: Checkpoints, error: Exception) -> None:
        save(checkpoints, 1, 2)
        with pytest.raises(OSError, match=f"step 3 .*{checkpoints.folder}: {re.escape(str(error))}"):
            checkpoints.save(3, fails_with(error))
        assert names_in(checkpoints.folder) == ["step-000001", "step-000002"]
        assert all((checkpoints.path(step) / "model.safetensors").read_bytes() == b"weights" for step in (1, 2))

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a mistake of ours")])
    def test_failure__of_another_kind_is_passed_on_as_it_is(
        self, checkpoints: Checkpoints, error: BaseException
    ) -> None:
        save(checkpoints, 1)
        with pytest.raises(type(error)):
            checkpoints.save(2, fails_with(error))
        assert names_in(checkpoints.folder) == ["step-000001"]

    @pytest.mark.parametrize("step", [2, 3])
    def test_failed_rename__leaves_earlier_ones_and_no_part(
        self, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        save(checkpoints, 1, 2)

        def replace(source: Path, target: Path) -> None:
            if source == unfinished(checkpoints, step):
                raise OSError(errno.EIO, "Input/output error")
            os.rename(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoints.save(step, writer(step, b"newer"))
        assert names_in(checkpoints.folder) == ["step-000001", "step-000002"]
        assert (checkpoints.path(2) / "model.safetensors").read_bytes() == b"weights"

    def test_failed_folder__is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").write_text("a file")
        with pytest.raises(OSError, match="checkpoints"):
            Checkpoints(tmp_path / "checkpoints", keep=1).save(1, writer(1))

    def test_processes__wait_for_each_other_equally_often(self, tmp_path: Path) -> None:
        # Otherwise one would wait for ever.
        calls: dict[bool, int] = {True: 0, False: 0}

        def save_as(is_main: bool) -> None:
            def barrier() -> None:
                calls[is_main] += 1

            checkpoints = Checkpoints(tmp_path, keep=1)
            checkpoints.save(1, lambda folder: None, is_main=is_main, barrier=barrier)

        save_as(True)
        save_as(False)
        assert calls[True] == calls[False] > 0

    def test_other_process__writes_its_own_files_and_leaves_folders_alone(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1, 2)
        part = unfinished(checkpoints, 3)
        part.mkdir()
        checkpoints.save(3, lambda folder: (folder / "random_state_1.pt").touch(), is_main=False)
        assert names_in(part) == ["random_state_1.pt"]
        assert checkpoints.steps() == [1, 2]


class TestRotation:
    @pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [9, 30]), (5, [1, 2, 9, 30])])
    def test_rotation__keeps_the_newest(self, tmp_path: Path, keep: int, left: list[int]) -> None:
        checkpoints = Checkpoints(tmp_path, keep)
        save(checkpoints, 1, 2, 9, 30)
        assert checkpoints.steps() == left

    def test_steps__are_numbers_not_names(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 999_999, 1_000_000)
        assert checkpoints.steps() == [999_999, 1_000_000]
        assert checkpoints.latest() == checkpoints.folder / "step-1000000"

    def test_going_back__removes_what_is_written_anew(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 2, 4, 3)
        assert checkpoints.steps() == [2, 3]

    def test_removal__cut_short_leaves_nothing_that_looks_whole(
        self, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(checkpoints, 1, 2)

        def half(path: Path, ignore_errors: bool = False) -> None:
            if ignore_errors:
                return
            (path / "model.safetensors").unlink()
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", half)
            with pytest.raises(OSError, match="Input/output"):
                save(checkpoints, 3)
        assert checkpoints.steps() == [2, 3]
        save(checkpoints, 4)
        assert names_in(checkpoints.folder) == ["step-000003", "step-000004"]

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 3))
    def test_steps__are_those_a_run_that_may_go_back_has_kept(self, saved: list[int], keep: int) -> None:
        expected: list[int] = []
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(folder, keep)
            for step in saved:
                save(checkpoints, step)
                expected = sorted({*(other for other in expected if other < step), step})[-keep:]
                assert checkpoints.steps() == expected
            assert names_in(checkpoints.folder) == [checkpoints.path(step).name for step in expected]


class TestKilledRun:
    def test_part__is_not_a_checkpoint(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1)
        shutil.copytree(checkpoints.path(1), unfinished(checkpoints, 2))
        assert checkpoints.steps() == [1]
        assert checkpoints.latest() == checkpoints.path(1)

    def test_part__goes_at_the_next_start(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1)
        shutil.copytree(checkpoints.path(1), unfinished(checkpoints, 2))
        checkpoints.remove_unfinished()
        assert names_in(checkpoints.folder) == ["step-000001"]

    def test_checkpoint__that_was_about_to_be_replaced_comes_back(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1, 2)
        checkpoints.path(2).rename(checkpoints.folder / ".step-000002.old")  # killed here
        checkpoints.remove_unfinished()
        assert checkpoints.steps() == [1, 2]
        assert names_in(checkpoints.folder) == ["step-000001", "step-000002"]

    def test_part__of_any_step_goes_with_the_next_checkpoint(self, checkpoints: Checkpoints) -> None:
        unfinished(checkpoints, 2).mkdir(parents=True)
        (unfinished(checkpoints, 2) / "half").touch()
        save(checkpoints, 3)
        assert names_in(checkpoints.folder) == ["step-000003"]

    def test_folder__need_not_exist(self, checkpoints: Checkpoints) -> None:
        checkpoints.remove_unfinished()
        assert (checkpoints.steps(), checkpoints.latest()) == ([], None)

    def test_other_files__are_left_alone(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 1)
        for name in ("notes.txt", "step-x", "step-000001.bak"):
            (checkpoints.folder / name).touch()
        checkpoints.remove_unfinished()
        assert checkpoints.steps() == [1]
        assert {"notes.txt", "step-x", "step-000001.bak"} < set(names_in(checkpoints.folder))


class TestNewestWhole:
    def test_newest__is_taken_where_it_is_whole(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 2, 4)
        assert checkpoints.newest_whole() == (checkpoints.path(4), [])

    @pytest.mark.parametrize("name", ["model.safetensors", STATE_FILE, DIGESTS_FILE])
    @pytest.mark.parametrize("damage", ["changed", "cut short", "missing", "a folder"])
    def test_damaged_one__is_passed_over_and_its_file_is_named(
        self, checkpoints: Checkpoints, name: str, damage: str
    ) -> None:
        save(checkpoints, 2, 4)
        file = checkpoints.path(4) / name
        if damage == "changed":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        elif damage == "cut short":
            file.write_bytes(file.read_bytes()[:-9])
        else:
            file.unlink()
        if damage == "a folder":
            file.mkdir()
        newest, (sentence,) = checkpoints.newest_whole()
        assert newest == checkpoints.path(2)
        assert "step-000004" in sentence
        assert name in sentence or name == DIGESTS_FILE

    def test_all_damaged__is_an_error_and_not_a_new_run(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 2, 4)
        for step in (2, 4):
            (checkpoints.path(step) / STATE_FILE).unlink()
        with pytest.raises(ValueError, match=r"step-000004.*step-000002.*--output"):
            checkpoints.newest_whole()

    def test_damaged_one__goes_with_a_later_checkpoint(self, checkpoints: Checkpoints) -> None:
        save(checkpoints, 2, 4)
        (checkpoints.path(4) / STATE_FILE).unlink()
        save(checkpoints, 3)
        assert names_in(checkpoints.folder) == ["step-000002", "step-000003"]


class TestDigests:
    def test_checkpoint_of_an_earlier_release__needs_its_files(self, checkpoints: Checkpoints) -> None:
        path = checkpoints.save(2, writer(2))
        (path / DIGESTS_FILE).unlink()
        for name in ("optimizer.pt", "config.json", "random_state_0.pt"):
            with pytest.raises(FileNotFoundError, match=name):
                check_whole(path)
            (path / name).touch()
        check_whole(path)

    @pytest.mark.parametrize("text", ["[]", "{", '{"../elsewhere": "ab"}', '{"a": 3}', "[" * 100_000, ""])
    def test_digests_that_are_damaged__are_named(self, checkpoints: Checkpoints, text: str) -> None:
        path = checkpoints.save(2, writer(2))
        (path / DIGESTS_FILE).write_text(text)
        with pytest.raises(ValueError, match=rf"^{path / DIGESTS_FILE} is damaged") as caught:
            check_whole(path)
        assert str(caught.value).isprintable()


class TestReadState:
    def test_read_state__gives_what_was_written(self, tmp_path: Path) -> None:
        (tmp_path / STATE_FILE).write_text('{"step": 7, "fingerprint": "abc"}')
        assert read_state(tmp_path) == {"step": 7, "fingerprint": "abc"}

    def test_read_state__gives_keys_of_earlier_releases_their_new_names(self, tmp_path: Path) -> None:
        (old,) = old_names("run_state")
        (tmp_path / STATE_FILE).write_text(json.dumps({"step": 7, old: 6}))
        assert read_state(tmp_path) == {"step": 7, "num_images": 6}

    def test_read_state__says_that_a_folder_is_not_a_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path} .*{STATE_FILE}.*RUN/checkpoints/"):
            read_state(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b'{"step": 7',
            b"[]",
            b"{}",
            b'{"step": "7"}',
            b'{"step": true}',
            b'{"step": -1}',
            b"\xff\xfe{}",
            b"[" * 10**5,
        ],
    )
    def test_read_state__names_a_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / STATE_FILE).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{tmp_path / STATE_FILE} is damaged: "):
            read_state(tmp_path)
