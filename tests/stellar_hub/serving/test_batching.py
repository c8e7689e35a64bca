"""Dynamic batching."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.batching import Batcher


class Worker:
    """Doubles numbers, and remembers its batches; "bad" fails the whole batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.busy = threading.Event()

    def __call__(self, key: Any, items: Sequence[Any]) -> list[Any]:
        self.batches.append((key, list(items)))
        self.busy.set()
        assert self.may_go.wait(60)
        if "bad" in items:
            raise RuntimeError("bad")
        return [2 * item for item in items]


def run(work: Callable[[Batcher], Awaitable[Any]], *workers: Worker, room: int = 4, max_wait: float = 0.2) -> Any:
    async def main() -> Any:
        batcher = Batcher(workers, lambda key: room, max_wait)
        try:
            return await work(batcher)
        finally:
            batcher.close()

    return asyncio.run(main())


def test_items_that_come_together__are_one_batch_of_their_kind() -> None:
    worker = Worker()

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(batcher.submit(number % 2, number) for number in range(6)))

    assert run(work, worker) == [0, 2, 4, 6, 8, 10]
    assert worker.batches == [(0, [0, 2, 4]), (1, [1, 3, 5])]


def test_full_group__does_not_wait() -> None:
    worker = Worker()

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(batcher.submit("k", 1) for _ in range(8))), 60)

    run(work, worker, max_wait=3600)
    assert [len(items) for _, items in worker.batches] == [4, 4]


def test_item__does_not_wait_for_nobody() -> None:
    worker = Worker()

    async def main() -> Any:
        batcher = Batcher([worker], lambda key: 4, 3600, accepted=lambda: 2)
        try:
            return await asyncio.wait_for(asyncio.gather(batcher.submit("k", 1), batcher.submit("k", 2)), 60)
        finally:
            batcher.close()

    assert asyncio.run(main()) == [2, 4]
    assert worker.batches == [("k", [1, 2])]


def test_failing_item__fails_alone() -> None:
    async def work(batcher: Batcher) -> list[Any]:
        items = (1, "bad", 3)
        return await asyncio.gather(*(batcher.submit("k", item) for item in items), return_exceptions=True)

    first, second, third = run(work, Worker())
    assert (first, third) == (2, 6)
    assert isinstance(second, RuntimeError)


def test_cancelled_item__never_reaches_the_model() -> None:
    worker = Worker()

    async def work(batcher: Batcher) -> Any:
        unwanted = asyncio.ensure_future(batcher.submit("k", 1))
        await asyncio.sleep(0)
        unwanted.cancel()
        return await batcher.submit("k", 2)

    assert run(work, worker) == 4
    assert worker.batches == [("k", [2])]


def test_workers__share_the_queue() -> None:
    one, other = Worker(), Worker()
    one.may_go.clear()
    other.may_go.clear()

    async def work(batcher: Batcher) -> list[Any]:
        tasks = [asyncio.ensure_future(batcher.submit("k", number)) for number in range(8)]
        for worker in (one, other):
            await asyncio.to_thread(worker.busy.wait, 60)
        assert batcher.num_waiting == 0
        one.may_go.set()
        other.may_go.set()
        return await asyncio.gather(*tasks)

    assert run(work, one, other) == list(range(0, 16, 2))
    assert [len(worker.batches) for worker in (one, other)] == [1, 1]


def test_abandon__fails_what_waits_and_what_runs() -> None:
    worker = Worker()
    worker.may_go.clear()

    async def work(batcher: Batcher) -> int:
        tasks = [asyncio.ensure_future(batcher.submit(number, number)) for number in range(3)]
        await asyncio.to_thread(worker.busy.wait, 60)
        count = batcher.abandon(ValueError("over"))
        for task in tasks:
            with pytest.raises(ValueError, match="over"):
                await task
        worker.may_go.set()
        return count

    assert run(work, worker, max_wait=0) == 3
