"""Training in processes of its own, to be killed and compared: forked from one that has imported everything.

A start then takes about a second in place of ten. What runs is the command, `stellar-hub train`.
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
PAUSE = 0.002  # seconds between two looks
PATIENCE = 90.0  # seconds for whatever takes a few
# What `accelerate launch --use_fsdp --fsdp_version 2` tells each process, among other things.
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
# What a journal's line says of the machine and not of the run.
TIMINGS = ("images_per_second", "data_wait_share", "memory_gb")


class Training:
    """A run of one or several processes on the CPU, each the leader of a group that its data workers belong to.

    Args:
        output: The run's folder. Logs and the images read lie beside it.
        options: Of the command, but for `--output` and `--cpu`.
        num_processes: How many; they find each other as those of a launcher do.
        cpu: Whether to pass `--cpu`.
        sharded: Whether the launcher asks for FSDP2.
    """

    def __init__(
        self, output: Path, *options: str | Path, num_processes: int = 1, cpu: bool = True, sharded: bool = False
    ):
        self.output = output
        self.processes = []
        arguments = ["--output", str(output), *(["--cpu"] if cpu else []), *map(str, options)]
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
        """SIGKILL to whatever is left; exit codes."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to the groups of all processes that go on, or of some."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            process = self.processes[rank]
            if process.is_alive() and process.pid is not None:
                # One that has only just begun leads no group yet.
                send = os.killpg if group_of(process.pid) == process.pid else os.kill
                send(process.pid, number)

    def wait(self, timeout: float = PATIENCE) -> list[int | None]:
        """Exit codes, negative for a signal, in the order of ranks.

        Raises:
            TimeoutError: if a process goes on.
        """
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                raise TimeoutError(f"a process still runs after {timeout} s:\n{self.log()}")
        return [process.exitcode for process in self.processes]

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
        """Look until a condition holds.

        Raises:
            TimeoutError: if it does not, or the run ends before.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end or not any(process.is_alive() for process in self.processes):
                raise TimeoutError(f"step {last_step(self.output)}, and not what was waited for:\n{self.log()}")
            time.sleep(PAUSE)

    def wait_for_step(self, step: int) -> None:
        """Look until a step is done; one that is in the journal of an earlier start does not count."""
        self.wait_until(lambda: "from step" in self.log(0))
        self.wait_until(lambda: last_step(self.output) >= step)

    def workers(self, rank: int = 0) -> list[int]:
        """Process numbers of a process's data workers."""
        return [child.pid for child in psutil.Process(self.processes[rank].pid).children()]

    def survivors(self) -> list[int]:
        """Process numbers of all that is left in the groups."""
        groups = {process.pid for process in self.processes}
        return [pid for pid in psutil.pids() if group_of(pid) in groups]

    def log(self, rank: int | None = None) -> str:
        """What processes have said."""
        ranks = range(len(self.processes)) if rank is None else [rank]
        return "\n".join(beside(self.output, "log", rank).read_text() for rank in ranks)


def train(arguments: list[str], environment: dict[str, str], log: Path, trace: Path, method: str) -> None:
    """The command, in a process that was forked for it; data workers are started by the platform's own method."""
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

    app(["train", *arguments])


def trace_images(trace: Path) -> None:
    """From now on append a line of JSON for each step: its number, and the names of the images it read."""
    from stellar_hub.training.step import Stepper, StepResult

    step_untraced = Stepper.step

    def step(self: Stepper, number: int, batches: list[dict[str, Any]]) -> StepResult:
        result = step_untraced(self, number, batches)
        with open(trace, "a") as file:
            file.write(json.dumps([number, [Path(path).name for path in result.paths]]) + "\n")
        return result

    Stepper.step = step  # type: ignore[method-assign]


def beside(output: Path, what: str, rank: int) -> Path:
    """A file of a process beside the run's folder: its "log", or what it has "read"."""
    return output.with_name(f"{output.name}-{what}-{rank}.txt")


def environments(num_processes: int) -> list[dict[str, str]]:
    """What a launcher tells each process; nothing where there is one."""
    if num_processes == 1:
        return [{"OMP_NUM_THREADS": "1"}]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    together |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def group_of(pid: int) -> int | None:
    """A process's group; None if it is gone, or only waits to be noticed."""
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getpgid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def last_step(output: Path) -> int:
    """The last step of the journal; 0 while there is none."""
    path = output / "metrics.jsonl"
    records = read_journal(path) if path.exists() else []
    return int(records[-1]["step"]) if records else 0


def measured(output: Path) -> list[dict[str, float]]:
    """The journal without what the machine's speed decides."""
    return [
        {name: value for name, value in record.items() if name not in TIMINGS}
        for record in read_journal(output / "metrics.jsonl")
    ]


def images_read(output: Path, rank: int = 0) -> dict[int, list[str]]:
    """For each step the names of the images that a process read.

    Raises:
        AssertionError: if a step that was done again read others.
    """
    read_by_step: dict[int, list[str]] = {}
    for line in beside(output, "read", rank).read_text().splitlines():
        step, names = json.loads(line)
        assert read_by_step.setdefault(step, names) == names
    return read_by_step


def final_weights(output: Path) -> dict[str, Tensor]:
    """All tensors of the newest checkpoint and of the model for inference."""
    checkpoint = Checkpoints(output / "checkpoints", keep=1).latest()
    assert checkpoint is not None
    return {
        f"{folder.name} {name}": tensor
        for folder in (checkpoint, output / "model")
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest absolute difference of any two entries of tensors of the same names."""
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)


def different(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same bit for bit."""
    assert found.keys() == expected.keys()
    return [name for name in expected if not torch.equal(found[name], expected[name])]
