"""The processes of a launch: which one this is, what each one does, and how results are put together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils import get_int_from_env
from torch import Tensor

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")

LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
MAX_WORKERS = 16


class LaunchedProcess(NamedTuple):
    """One of several processes that do the same command.

    Attributes:
        rank: Which one, from 0.
        num_processes: How many there are, on all machines.
        local_rank: Which one on this machine.
        num_local_processes: How many there are on this machine.
    """

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    num_local_processes: int = 1

    @classmethod
    def from_environment(cls) -> "LaunchedProcess":
        """As `accelerate launch`, `torchrun` or MPI say it; the only one where nothing does.

        Raises:
            ValueError: if what they say does not fit.
        """
        process = cls(
            get_int_from_env(RANKS, 0),
            get_int_from_env(SIZES, 1),
            get_int_from_env(LOCAL_RANKS, 0),
            get_int_from_env(LOCAL_SIZES, 1),
        )
        if not 0 <= process.rank < process.num_processes:
            raise ValueError(
                f"the environment says rank {process.rank} of {process.num_processes} processes "
                f"(RANK={os.environ.get('RANK')}, WORLD_SIZE={os.environ.get('WORLD_SIZE')}): unset both or launch anew"
            )
        return process


def num_workers_for(process: LaunchedProcess) -> int:
    """Data workers of one process: its share of the cores that may be used here, 1 to 16."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(MAX_WORKERS, cores // max(1, process.num_local_processes)))


ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Processes:
    """This process among those that evaluate together.

    Attributes:
        index: Which one this is.
        count: How many there are.
        device: Where its network runs.
    """

    index: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    def launched(cls, device: str = "auto") -> "Processes":
        """As accelerate's launcher has started them; one if there was no launcher.

        Args:
            device: "auto" gives each process a GPU of its own where there are any; or a device for all of them.
        """
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes, str(state.device) if device == "auto" else device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.index == 0

    def share(self, total: int) -> range:
        """The part of `range(total)` that is this process's: shares are disjoint, and together they are the whole."""
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)

    def gather(self, items: Sequence[ItemT]) -> list[ItemT]:
        """All processes' items in the order of processes; every process has to ask."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        # Wrapped, as accelerate strings the items of lists together, whatever they are.
        return [item for part in gather_object([list(items)]) for item in part]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """All processes' rows `(n, ...)`, as many as each has, in the order of processes; on the CPU.

        Processes send tensors of the same size: shorter ones are filled up, and cut again.
        """
        if self.count == 1:
            return rows
        from accelerate.utils import gather

        sizes = self.gather([len(rows)])
        sent = rows.new_zeros(max(sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        # One process's tensors lie where the collective library reaches them.
        received = gather(sent.to(self._collective_device())).cpu().unflatten(0, (self.count, -1))
        return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])

    def raise_together(self, error: Exception | None) -> None:
        """Raise in all processes if one of them failed: the others would wait for it forever.

        Raises:
            ValueError: with the first failed process's message, if it was another process.
        """
        failures = self.gather([None if error is None else f"{error}"])
        if error is not None:
            raise error
        first = next((failure for failure in failures if failure is not None), None)
        if first is not None:
            raise ValueError(first)

    def _collective_device(self) -> Any:
        return "cpu" if torch.distributed.get_backend() == "gloo" else self.device
