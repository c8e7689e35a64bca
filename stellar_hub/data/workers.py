"""Worker processes that read images: their default number, and how they treat Ctrl-C."""

import os
import signal

MAX_NUM_WORKERS = 8


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
