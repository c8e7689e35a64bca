"""Runs `stellar-hub eval` in several processes, forked from one that has imported everything."""

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.training_processes import FORKS, PATIENCE, environments


def evaluate(arguments: list[str], environment: dict[str, str], log: Path, method: str) -> None:
    """Runs the command in a process that was forked for it."""
    multiprocessing.set_start_method(method, force=True)
    os.environ |= environment
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    from stellar_hub.cli.main import app

    app(["eval", *arguments])


def run_processes(count: int, arguments: Sequence[object], log: Path) -> list[int | None]:
    """Runs the command in processes that find each other; returns their exit codes."""
    processes = [
        FORKS.Process(
            target=evaluate,
            args=([str(each) for each in arguments], environment, log, multiprocessing.get_start_method()),
        )
        for environment in environments(count)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, log.read_text()
    return [process.exitcode for process in processes]
