"""Worker processes that read images: their default number, the loader that starts them, and its errors."""

import errno
import os
import pickle
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from stellar_hub.modeling.limits import max_allowed, variable_of

MAX_NUM_WORKERS = 8
_POLL_SECONDS = 5.0  # torch looks whether its workers live only when a wait ends
BatchT = TypeVar("BatchT", covariant=True)

_FROM_WORKER = re.compile(r"Caught (?P<kind>\w+) in (?:DataLoader worker process|pin memory thread)")
_DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<end>is killed by signal: [^.]*|exited)")
_ERRNO = re.compile(r"\[Errno (\d+)\] (.*)", re.DOTALL)
_ADVICE = "most often there is too little memory; use fewer workers (num_workers) or smaller batches"


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_num_workers(num_local_processes: int = 1) -> int:
    """Returns the number of data workers of one process: its share of the cores, at least 1 and at most 8.

    Args:
        num_local_processes: Number of processes on this machine that each start data workers.
    """
    return max(1, min(MAX_NUM_WORKERS, num_cores() // max(1, num_local_processes)))


def leave_interrupt_to_parent(worker_id: int) -> None:
    """Ignores Ctrl-C in a data worker: the signal reaches the whole process group, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class WorkerError(RuntimeError):
    """A worker process that reads images ended, or sent nothing for too long."""


class ImageLoader(DataLoader[BatchT]):
    """A data loader whose waits on workers end, and whose errors are one sentence.

    Iterating raises what the data set raises, with its own message, and `WorkerError` if a worker ends or sends nothing
    within the limit "worker_seconds".

    Args:
        dataset: Data set whose items are batches, or that `options` make batches of. Workers that are not forked get it
            pickled.
        num_workers: Number of worker processes. 0 reads in this process.
        worker_init_fn: Function that each worker calls first, with its index. Default: ignores Ctrl-C.
        options: Options of `torch.utils.data.DataLoader`, such as `multiprocessing_context="spawn"`.
    """

    def __init__(
        self,
        dataset: Any,
        num_workers: int,
        worker_init_fn: Callable[[int], None] = leave_interrupt_to_parent,
        **options: Any,
    ):
        if num_workers:
            options["timeout"] = _POLL_SECONDS
        super().__init__(dataset, num_workers=num_workers, worker_init_fn=worker_init_fn, **options)

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return batches if self.num_workers == 0 else _watched(batches)


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    """Yields the batches of workers, waits no longer than the limit, and raises errors of one line."""
    while True:
        try:
            batch = _next_batch(batches)
        except StopIteration:
            return
        yield batch


def _next_batch(batches: Iterator[Any]) -> Any:
    limit = max_allowed("worker_seconds")
    end = time.monotonic() + limit
    while True:
        try:
            return next(batches)
        except StopIteration:
            raise
        except Exception as error:
            is_timeout = str(error).startswith("DataLoader timed out")
            if not is_timeout:
                raise plain_error(error) from error
            if time.monotonic() > end:
                raise WorkerError(
                    f"no worker sent a batch within {limit} seconds: the images may be on a disk or a host that does "
                    f"not answer; set num_workers to 0 to see where it waits, or {variable_of('worker_seconds')} to a "
                    "larger number"
                ) from None


def plain_error(error: Exception) -> Exception:
    """Returns an error of a data loader as the error that the data set raised, or as one sentence about the worker.

    Other errors are returned as they are.
    """
    text = str(error)
    if found := _FROM_WORKER.match(text):
        return _error_of_data_set(error, found["kind"], text)
    if found := _DEAD.search(text):
        killed = found["end"].partition("signal: ")[2]
        how = f"was killed ({killed})" if killed else "ended"
        return WorkerError(f"a worker process that reads images (pid {found['pids'].strip()}) {how}: {_ADVICE}")
    if getattr(error, "errno", None) == errno.EMFILE or "ancdata" in text or text.startswith("Too many open files"):
        return WorkerError("too many files are open to receive batches from workers: raise the limit with `ulimit -n`")
    if isinstance(error, OSError | EOFError | pickle.UnpicklingError):  # of the queue, before torch notices the death
        return WorkerError(f"a worker process that reads images ended ({type(error).__name__}): {_ADVICE}")
    return error


def _error_of_data_set(error: Exception, kind: str, text: str) -> Exception:
    """Returns an error of a worker without the worker's traceback."""
    raised = list(re.finditer(rf"^(?:[\w.]+\.)?{kind}: ", text, re.MULTILINE))
    message = " ".join(text[raised[-1].end() :].split()) if raised else kind
    if isinstance(error, OSError) and (numbered := _ERRNO.match(message)):
        return OSError(int(numbered[1]), numbered[2])
    try:
        return type(error)(message)
    except Exception:  # its constructor takes something else
        return RuntimeError(message)
