"""The thread that writes shards. What it writes is in `test_to_store.py`."""

import threading

import pytest

from stellar_hub.store.extract_shards import ShardWriter


def test_shards__are_written_in_order_beside_the_work() -> None:
    written: list[int] = []
    may_write = threading.Event()

    def write(number: int) -> int:
        assert may_write.wait(10)
        written.append(number)
        return number

    with ShardWriter() as writer:
        writer.submit(write, 1)
        writer.submit(write, 2)  # neither waits for the first
        writer.raise_errors()
        assert written == []
        may_write.set()
        writer.submit(write, 3)
    assert written == [1, 2, 3]
    assert writer.recovered == 6


def test_third_shard__waits_for_the_first() -> None:
    first_is_written = threading.Event()

    def write_slowly() -> int:
        first_is_written.set()
        return 0

    with ShardWriter() as writer:
        for _ in range(2):
            writer.submit(write_slowly)
        writer.submit(write_slowly)
        assert first_is_written.is_set()


def test_error__is_raised_at_the_next_batch_and_ends_the_writing() -> None:
    written: list[int] = []
    may_fail, failed = threading.Event(), threading.Event()

    def fail() -> int:
        assert may_fail.wait(10)
        failed.set()
        raise OSError("No space left on device")

    def write_all() -> None:
        with ShardWriter() as writer:
            writer.submit(fail)
            writer.submit(lambda: written.append(2) or 0)
            may_fail.set()
            assert failed.wait(10)
            while True:
                writer.raise_errors()

    with pytest.raises(OSError, match="No space left"):
        write_all()
    assert written == []


def test_error_of_the_work__leaves_no_thread() -> None:
    before = threading.active_count()

    def fail() -> None:
        with ShardWriter() as writer:
            writer.submit(lambda: 0)
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        fail()
    assert threading.active_count() == before


def test_error_in_the_last_shard__is_raised() -> None:
    def fail() -> int:
        raise OSError("disk")

    def write_last() -> None:
        with ShardWriter() as writer:
            writer.submit(fail)

    with pytest.raises(OSError, match="disk"):
        write_last()
