import errno
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stellar_hub.modeling import atomic_write
from stellar_hub.modeling.atomic_write import write_atomically

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
        with pytest.raises(FileNotFoundError, match=r"cannot write .*a\.bin: the folder .*nowhere does not exist"):
            write_atomically(tmp_path / "nowhere" / "a.bin", NEW)
        assert names(tmp_path) == []
