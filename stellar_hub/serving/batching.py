"""Dynamic batching: items that wait for the model are put together, those of one kind and shape at a time.

Everything but the model's calls happens in the event loop, so there are no locks.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class _Job:
    """An item that waits: its kind, when it came in seconds of the event loop, and where its result goes."""

    key: Hashable
    item: Any
    since: float
    result: "asyncio.Future[Any]"


class Batcher:
    """Gives items to workers in batches. Make it in a running event loop.

    A worker that is free takes the group of the item that has waited longest: as soon as the group is full, no more
    items are on their way, or that item has waited long enough.

    Args:
        workers: One function for each device. It gets a key and some items of that key, and returns their results. Each
            runs in a thread of its own.
        room: Function from a key to the largest number of items of a batch.
        max_wait: Seconds that an item waits for others.
        seen: Function that is called with the key and the size of each batch.
        accepted: Function that returns how many items have no result yet, those that are on their way to the queue
            included. None means that more may always come.
    """

    def __init__(
        self,
        workers: Sequence[Run],
        room: Callable[[Any], int],
        max_wait: float,
        seen: Callable[[Any, int], None] = lambda key, size: None,
        accepted: Callable[[], int] | None = None,
    ):
        self._room = room
        self._max_wait = max_wait
        self._seen = seen
        self._accepted = accepted
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._threads = [ThreadPoolExecutor(1, f"model-{number}") for number, _ in enumerate(workers)]
        pairs = zip(workers, self._threads, strict=True)
        self._tasks = [self._loop.create_task(self._work(run, thread)) for run, thread in pairs]
        self._running: set[_Job] = set()

    @property
    def num_waiting(self) -> int:
        """Number of items that no worker has taken yet."""
        return len(self._jobs)

    async def submit(self, key: Hashable, item: Any) -> Any:
        """Returns the result of an item; whoever is cancelled takes it out of the queue.

        Args:
            key: What items of one batch have in common.
            item: The item.
        """
        job = _Job(key, item, self._loop.time(), self._loop.create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.result

    def abandon(self, error: Exception) -> int:
        """Fails all items that have no result yet, and returns their number."""
        left = [job for job in (*self._jobs, *self._running) if not job.result.done()]
        self._jobs.clear()
        for job in left:
            job.result.set_exception(error)
        return len(left)

    def close(self) -> None:
        """Ends the workers; a call of the model that runs is not waited for."""
        for task in self._tasks:
            task.cancel()
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self, run: Run, thread: ThreadPoolExecutor) -> None:
        while True:
            batch = await self._next()
            self._running.update(batch)
            self._seen(batch[0].key, len(batch))
            for job, outcome in zip(batch, await self._outcomes(run, thread, batch), strict=True):
                if job.result.done():  # nobody waits for it any more
                    continue
                if isinstance(outcome, Exception):
                    job.result.set_exception(outcome)
                else:
                    job.result.set_result(outcome)
            self._running.difference_update(batch)

    async def _outcomes(self, run: Run, thread: ThreadPoolExecutor, batch: list[_Job]) -> Sequence[Any]:
        """Returns a result or an error for each item. If a batch fails, each of its items gets a call of its own."""
        try:
            return await self._loop.run_in_executor(thread, run, batch[0].key, [job.item for job in batch])
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [(await self._outcomes(run, thread, [job]))[0] for job in batch]

    def _more_are_coming(self) -> bool:
        return self._accepted is None or self._accepted() > len(self._jobs) + len(self._running)

    async def _next(self) -> list[_Job]:
        """Waits for a batch, and takes it out of the queue."""
        while True:
            while self._jobs and self._jobs[0].result.done():
                self._jobs.popleft()
            wait = None
            if self._jobs:
                oldest = self._jobs[0]
                group = [job for job in self._jobs if job.key == oldest.key and not job.result.done()]
                wait = oldest.since + self._max_wait - self._loop.time()
                room = self._room(oldest.key)
                if len(group) >= room or wait <= 0 or not self._more_are_coming():
                    taken = set(group[:room])
                    self._jobs = deque(job for job in self._jobs if job not in taken)
                    return group[:room]
            # Nothing has happened since the look at the queue, because there was no `await` in between.
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait)
