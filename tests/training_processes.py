"""Training in separate processes, which tests kill and compare.

They are forked from a process that has imported everything, so that a start takes a second and not ten. They run a
command, `stellar-hub train` or `stellar-hub finetune`.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.monitoring.journal import read_journal

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["stellar_hub.cli.main", "stellar_hub.training.train"])
PAUSE = 0.002  # seconds between two checks of a condition
PATIENCE = 900.0  # seconds to wait for something that takes a few; only a hang takes them all
# Some of the variables that `accelerate launch --use_fsdp --fsdp_version 2` sets for each process.
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
# Values in a journal that depend on the machine and not on the run.
TIMINGS = ("images_per_second", "data_wait_share", "memory_gb")


class Training:
    """A run of one or several processes on the CPU. Each leads a process group, with its data workers.

    Args:
        output: Folder of the run. Logs and the lists of images read are beside it.
        options: Options of the command, without `--output` and `--cpu`.
        num_processes: Number of processes; they find each other as those of a launcher do.
        cpu: Whether to pass `--cpu`.
        sharded: Whether the environment is that of a launcher with FSDP2.
        command: Command of `stellar-hub`.
    """

    def __init__(
        self,
        output: Path,
        *options: str | Path,
        num_processes: int = 1,
        cpu: bool = True,
        sharded: bool = False,
        command: str = "train",
    ):
        self.output = output
        self.processes = []
        arguments = [command, "--output", str(output), *(["--cpu"] if cpu else []), *map(str, options)]
        for rank, environment in enumerate(environments(num_processes)):
            environment |= SHARDED if sharded else {}
            log, trace = beside(output, "log", rank), beside(output, "read", rank)
            log.write_text("")
            method = multiprocessing.get_start_method()
            self.processes.append(FORKS.Process(target=train, args=(arguments, environment, log, trace, method)))
        for process in self.processes:
            process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> list[int | None]:
        """Sends SIGKILL to all that is left, and returns the exit codes."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Sends a signal to the groups of all processes that still run, or of some."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            process = self.processes[rank]
            if process.is_alive() and process.pid is not None:
                # A process that has just started does not lead a group yet.
                send = os.killpg if group_of(process.pid) == process.pid else os.kill
                send(process.pid, number)

    def wait(self, timeout: float = PATIENCE) -> list[int | None]:
        """Waits for the end, and returns the exit codes by rank, negative for a signal.

        Raises:
            TimeoutError: if a process still runs.
        """
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                raise TimeoutError(f"a process still runs after {timeout} s:\n{self.log()}")
        return [process.exitcode for process in self.processes]

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
        """Waits until a condition holds.

        Raises:
            TimeoutError: if it does not, or the run ends first.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end or not any(process.is_alive() for process in self.processes):
                raise TimeoutError(f"the condition does not hold at step {last_step(self.output)}:\n{self.log()}")
            time.sleep(PAUSE)

    def wait_for_step(self, step: int) -> None:
        """Waits until a step is done; steps that an earlier start has written to the journal do not count."""
        self.wait_until(lambda: "from step" in self.log(0))
        self.wait_until(lambda: last_step(self.output) >= step)

    def workers(self, rank: int = 0) -> list[int]:
        """Returns the process numbers of a process's data workers."""
        return [child.pid for child in psutil.Process(self.processes[rank].pid).children()]

    def survivors(self) -> list[int]:
        """Returns the process numbers of all processes that are left in the groups."""
        groups = {process.pid for process in self.processes}
        return [pid for pid in psutil.pids() if group_of(pid) in groups]

    def log(self, rank: int | None = None) -> str:
        """Returns what the processes have written to stdout and stderr."""
        ranks = range(len(self.processes)) if rank is None else [rank]
        return "\n".join(beside(self.output, "log", rank).read_text() for rank in ranks)


def train(arguments: list[str], environment: dict[str, str], log: Path, trace: Path, method: str) -> None:
    """Runs the command in a process that was forked for it; data workers start by the platform's own method."""
    os.setsid()
    multiprocessing.set_start_method(method, force=True)
    os.environ |= environment
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    trace_images(trace)
    from stellar_hub.cli.main import app

    app(arguments)


def trace_images(trace: Path) -> None:
    """Makes each step append a line of JSON: its number, and the names of the images that it read."""
    from stellar_hub.training.step import Stepper, StepResult

    step_untraced = Stepper.step

    def step(self: Stepper, number: int, batches: list[dict[str, Any]]) -> StepResult:
        result = step_untraced(self, number, batches)
        with open(trace, "a") as file:
            file.write(json.dumps([number, [Path(path).name for path in result.paths]]) + "\n")
        return result

    Stepper.step = step  # type: ignore[method-assign]


def beside(output: Path, what: str, rank: int) -> Path:
    """Returns the path of a process's file beside the run's folder: its "log", or the images that it has "read"."""
    return output.with_name(f"{output.name}-{what}-{rank}.txt")


def environments(num_processes: int) -> list[dict[str, str]]:
    """Returns the environment variables that a launcher sets for each process."""
    if num_processes == 1:
        return [{"OMP_NUM_THREADS": "1"}]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    together |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def group_of(pid: int) -> int | None:
    """Returns the group of a process; None if it is gone, or a zombie."""
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getpgid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def last_step(output: Path) -> int:
    """Returns the last step of the journal; 0 if there is none."""
    path = output / "metrics.jsonl"
    records = read_journal(path) if path.exists() else []
    return int(records[-1]["step"]) if records else 0


def measured(output: Path) -> list[dict[str, float]]:
    """Returns the journal without values that depend on the machine."""
    return [
        {name: value for name, value in record.items() if name not in TIMINGS}
        for record in read_journal(output / "metrics.jsonl")
    ]


def images_read(output: Path, rank: int = 0) -> dict[int, list[str]]:
    """Returns for each step the names of the images that a process read.

    Raises:
        AssertionError: if a step that was done twice read different ones.
    """
    read_by_step: dict[int, list[str]] = {}
    for line in beside(output, "read", rank).read_text().splitlines():
        step, names = json.loads(line)
        assert read_by_step.setdefault(step, names) == names
    return read_by_step


def final_weights(output: Path) -> dict[str, Tensor]:
    """Returns all tensors of the newest checkpoint and of the model for inference."""
    checkpoint = Checkpoints(output / "checkpoints", keep=1).latest()
    assert checkpoint is not None
    return {
        f"{folder.name} {name}": tensor
        for folder in (checkpoint, output / "model")
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Returns the largest absolute difference between tensors of the same names."""
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)


def different(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Returns the names of tensors that are not the same bit for bit."""
    assert found.keys() == expected.keys()
    return [name for name in expected if not torch.equal(found[name], expected[name])]
