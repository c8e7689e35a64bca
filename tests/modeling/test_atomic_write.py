import errno
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stellar_hub.modeling import atomic_write
from stellar_hub.modeling.atomic_write import replaced_folder, write_atomically

OLD, NEW = b"old content", b"new content, longer than the old one"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class FullDisk(io.FileIO):
    """A file on a disk that fills up half way."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        super().write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


class TestWriting:
    def test_new_file__holds_the_bytes_and_is_alone(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a.bin", NEW)
        assert (tmp_path / "a.bin").read_bytes() == NEW
        assert names(tmp_path) == ["a.bin"]

    def test_old_file__is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(OLD)
        write_atomically(str(tmp_path / "a.bin"), NEW)
        assert (tmp_path / "a.bin").read_bytes() == NEW
        assert names(tmp_path) == ["a.bin"]

    def test_empty_data__gives_an_empty_file(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a.bin", b"")
        assert (tmp_path / "a.bin").read_bytes() == b""

    def test_old_file__is_whole_until_the_rename(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = tmp_path / "a.bin"
        target.write_bytes(OLD)
        seen: list[tuple[bytes, bytes]] = []
        rename = os.replace

        def spy(source: Path, destination: Path) -> None:
            seen.append((Path(source).read_bytes(), Path(destination).read_bytes()))
            rename(source, destination)

        monkeypatch.setattr(os, "replace", spy)
        write_atomically(target, NEW)
        assert seen == [(NEW, OLD)]

    def test_concurrent_writers__leave_one_whole_file(self, tmp_path: Path) -> None:
        contents = [bytes([index]) * 100_000 for index in range(8)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda data: write_atomically(tmp_path / "a.bin", data), contents))
        assert (tmp_path / "a.bin").read_bytes() in contents
        assert names(tmp_path) == ["a.bin"]


class TestFailure:
    @pytest.mark.parametrize("existing", [OLD, None], ids=["over-old-file", "new-file"])
    def test_rename_fails__old_file_stays_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bytes | None
    ) -> None:
        if existing is not None:
            (tmp_path / "a.bin").write_bytes(existing)
        before = names(tmp_path)

        def fail(source: Path, destination: Path) -> None:
            raise OSError(errno.EIO, "rename failed")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="rename failed"):
            write_atomically(tmp_path / "a.bin", NEW)
        assert names(tmp_path) == before
        assert existing is None or (tmp_path / "a.bin").read_bytes() == existing

    def test_disk_full__old_file_stays_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.bin").write_bytes(OLD)
        monkeypatch.setattr(atomic_write, "open", FullDisk, raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            write_atomically(tmp_path / "a.bin", NEW)
        assert (tmp_path / "a.bin").read_bytes() == OLD
        assert names(tmp_path) == ["a.bin"]

    def test_sync_fails__old_file_stays_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.bin").write_bytes(OLD)

        def fail(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left on device"):
            write_atomically(tmp_path / "a.bin", NEW)
        assert (tmp_path / "a.bin").read_bytes() == OLD
        assert names(tmp_path) == ["a.bin"]

    def test_interrupt__old_file_stays_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.bin").write_bytes(OLD)

        def interrupt(descriptor: int) -> None:
            raise KeyboardInterrupt("ctrl-c")

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
            write_atomically(tmp_path / "a.bin", NEW)
        assert (tmp_path / "a.bin").read_bytes() == OLD
        assert names(tmp_path) == ["a.bin"]

    def test_target_is_a_folder__is_an_error_and_nothing_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").mkdir()
        with pytest.raises(IsADirectoryError, match=r"a\.bin"):
            write_atomically(tmp_path / "a.bin", NEW)
        assert names(tmp_path) == ["a.bin"]

    def test_missing_folder__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"a\.bin: .*nowhere"):
            write_atomically(tmp_path / "nowhere" / "a.bin", NEW)
        assert names(tmp_path) == []


class TestNames:
    @pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日" * 85], ids=["ascii", "two-bytes", "three-bytes"])
    def test_longest_name__can_be_written(self, tmp_path: Path, name: str) -> None:
        write_atomically(tmp_path / name, NEW)
        assert names(tmp_path) == [name]
        write_atomically(tmp_path / name, OLD)
        assert (tmp_path / name).read_bytes() == OLD

    def test_longest_name_of_a_folder__can_be_written(self, tmp_path: Path) -> None:
        for _ in range(2):
            with replaced_folder(tmp_path / ("x" * 255)) as folder:
                fill(folder)
        assert names(tmp_path) == ["x" * 255]

    def test_unfinished_name__has_no_letters_that_the_system_cannot_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
        assert atomic_write.unfinished_path(tmp_path / "aü日b").name.startswith(".ab.")

    def test_name_that_is_not_utf8__can_be_written(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "caf\udce9.bin", NEW)
        assert (tmp_path / "caf\udce9.bin").read_bytes() == NEW

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    @pytest.mark.parametrize("function", ["fsync", "replace"])
    def test_error_of_the_disk__names_the_file_that_was_meant(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, function: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(code, "full")

        monkeypatch.setattr(os, function, fail)
        with pytest.raises(OSError, match="full") as caught:
            write_atomically(tmp_path / "a.bin", NEW)
        assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "a.bin"))

    def test_error_in_a_folder__names_the_file_that_was_meant(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError) as caught, replaced_folder(tmp_path / "model") as folder:  # noqa: PT012
            (folder / "part").mkdir()
            (folder / "part").write_bytes(NEW)
        assert caught.value.filename == str(tmp_path / "model" / "part")

    def test_error_about_another_file__keeps_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught, replaced_folder(tmp_path / "model"):
            (tmp_path / "nothing").read_bytes()
        assert caught.value.filename == str(tmp_path / "nothing")


class TestLeftovers:
    @pytest.fixture(autouse=True)
    def _nothing_searched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(atomic_write, "_searched", {})

    @pytest.fixture
    def dead(self) -> int:
        """The number of a process that has ended."""
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process.pid

    @staticmethod
    def leave(folder: Path, process: int, monkeypatch: pytest.MonkeyPatch, name: str = "a.bin") -> Path:
        """Makes the file that a process left when it was killed."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process)
            leftover = atomic_write.unfinished_path(folder / name)
        leftover.write_bytes(OLD)
        return leftover

    def test_file_of_an_ended_process__is_removed_by_the_next_write(
        self, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.leave(tmp_path, dead, monkeypatch)
        write_atomically(tmp_path / "a.bin", NEW)
        assert names(tmp_path) == ["a.bin"]

    def test_folder_of_an_ended_process__is_removed_by_the_next_write(
        self, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leftover = self.leave(tmp_path, dead, monkeypatch, "model")
        leftover.unlink()
        fill_into = leftover / "part"
        fill_into.mkdir(parents=True)
        with replaced_folder(tmp_path / "model") as folder:
            assert names(tmp_path) == [folder.name]
        assert names(tmp_path) == ["model"]

    def test_file_of_a_living_process__stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        leftover = self.leave(tmp_path, os.getppid(), monkeypatch)
        write_atomically(tmp_path / "a.bin", NEW)
        assert names(tmp_path) == sorted(["a.bin", leftover.name])

    @pytest.mark.parametrize(("hours", "stays"), [(1, True), (48, False)])
    def test_file_of_another_machine__is_removed_when_it_is_old(
        self, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch, hours: int, stays: bool
    ) -> None:
        leftover = self.leave(tmp_path, dead, monkeypatch)
        written = time.time() - 3600 * hours
        os.utime(leftover, (written, written))
        monkeypatch.setattr(atomic_write, "_host", lambda: "0" * 8)
        write_atomically(tmp_path / "a.bin", NEW)
        assert leftover.exists() == stays

    def test_files_of_others__stay(self, tmp_path: Path) -> None:
        others = [".step-000001.part", "movie.part", ".a.bin.part"]
        for name in others:
            (tmp_path / name).write_bytes(OLD)
        write_atomically(tmp_path / "a.bin", NEW)
        assert names(tmp_path) == sorted([*others, "a.bin"])

    def test_folder__is_searched_once_for_many_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        searched: list[object] = []
        scan = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: searched.append(path) or scan(path))
        for index in range(5):
            write_atomically(tmp_path / f"{index}.bin", NEW)
        assert searched == [tmp_path]


def content(folder: Path) -> dict[str, bytes]:
    """Files below a folder and their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "a.bin").write_bytes(NEW)
    (folder / "b.bin").write_bytes(NEW)


NEW_FOLDER = {"part/a.bin": NEW, "b.bin": NEW}
OLD_FOLDER = {"b.bin": OLD, "c.bin": OLD}


class Killed(BaseException):
    """Stands for the end of the process: nothing runs after it but what a test calls."""


class TestFolder:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        return tmp_path / "run" / "model"

    @pytest.fixture(params=[True, False], ids=["over-old-folder", "new-folder"])
    def before(self, request: pytest.FixtureRequest, target: Path) -> dict[str, bytes] | None:
        """Content of the folder before the test; None where it does not exist."""
        target.parent.mkdir()
        if not request.param:
            return None
        target.mkdir()
        for name, data in OLD_FOLDER.items():
            (target / name).write_bytes(data)
        return OLD_FOLDER

    @staticmethod
    def assert_unchanged(target: Path, before: dict[str, bytes] | None) -> None:
        assert names(target.parent) == ([] if before is None else ["model"])
        assert before is None or content(target) == before

    def test_folder__has_the_new_content_alone(self, target: Path, before: dict[str, bytes] | None) -> None:
        with replaced_folder(str(target)) as folder:
            assert folder.parent == target.parent
            assert names(folder) == []
            fill(folder)
            assert (content(target) if target.exists() else None) == before
        assert content(target) == NEW_FOLDER
        assert names(target.parent) == ["model"]

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt("no")], ids=["error", "interrupt"])
    def test_block_fails__old_folder_stays_and_nothing_is_left(
        self, target: Path, before: dict[str, bytes] | None, error: BaseException
    ) -> None:
        with pytest.raises(type(error), match="no"), replaced_folder(target) as folder:  # noqa: PT012
            fill(folder)
            raise error
        self.assert_unchanged(target, before)

    @pytest.mark.parametrize("function", ["fsync", "replace"])
    @pytest.mark.parametrize("call", [0, 1, 2])
    def test_any_call_fails__the_folder_is_whole_and_nothing_is_left(
        self,
        target: Path,
        before: dict[str, bytes] | None,
        function: str,
        call: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        original, calls = getattr(os, function), []

        def fail(*args: object) -> None:
            calls.append(args)
            if len(calls) == call + 1:
                raise OSError(errno.EIO, f"{function} failed")
            original(*args)

        monkeypatch.setattr(os, function, fail)
        try:
            with replaced_folder(target) as folder:
                fill(folder)
        except OSError:
            self.assert_unchanged(target, before)
        else:
            assert len(calls) <= call  # it was never the one to fail
            assert content(target) == NEW_FOLDER

    def test_killed_between_the_renames__the_next_call_brings_the_old_folder_back(
        self, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target.mkdir(parents=True)
        (target / "b.bin").write_bytes(OLD)
        rename = os.replace

        def kill(source: Path, destination: Path) -> None:
            if destination == target:
                raise Killed
            rename(source, destination)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill)
            patch.setattr(atomic_write, "restore", lambda final, old: None)
            with pytest.raises(Killed), replaced_folder(target) as folder:
                fill(folder)
        assert not target.exists()
        with pytest.raises(ValueError, match="no"), replaced_folder(target) as folder:  # noqa: PT012
            assert content(target) == {"b.bin": OLD}
            raise ValueError("no")
        assert content(target) == {"b.bin": OLD}
        assert names(target.parent) == ["model"]

    def test_killed_after_the_renames__the_next_call_removes_the_old_folder(self, target: Path) -> None:
        target.mkdir(parents=True)
        (target / "b.bin").write_bytes(NEW)
        old = target.with_name(".model.old")
        old.mkdir()
        (old / "b.bin").write_bytes(OLD)
        with replaced_folder(target) as folder:
            assert not old.exists()
            assert content(target) == {"b.bin": NEW}
            fill(folder)
        assert names(target.parent) == ["model"]

    def test_missing_parent__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"model.*nowhere"), replaced_folder(tmp_path / "nowhere" / "model"):
            pass
        assert names(tmp_path) == []


def test_private_file__is_readable_by_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    write_atomically(tmp_path / "a", b"new", private=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a").read_bytes() == b"new"
