"""The processes of a launch: which one this is, and how results of all are put together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils import get_int_from_env
from torch import Tensor

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_NUM = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_NUM = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Processes:
    """This process among all processes that run the same command.

    Attributes:
        rank: Number of this process, from 0.
        num_processes: Number of processes on all machines.
        local_rank: Number of this process on its machine, from 0.
        num_local_processes: Number of processes on this machine.
        device: Device of this process's network.
    """

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    num_local_processes: int = 1
    device: str = "cpu"

    @classmethod
    def from_environment(cls) -> "Processes":
        """Reads what `accelerate launch`, `torchrun` or MPI say, without a connection between the processes.

        Raises:
            ValueError: if the rank does not fit the number of processes.
        """
        process = cls(
            get_int_from_env(_RANK, 0),
            get_int_from_env(_NUM, 1),
            get_int_from_env(_LOCAL_RANK, 0),
            get_int_from_env(_LOCAL_NUM, 1),
        )
        if not 0 <= process.rank < process.num_processes:
            raise ValueError(
                f"the environment says rank {process.rank} of {process.num_processes} processes "
                f"(RANK={os.environ.get('RANK')}, WORLD_SIZE={os.environ.get('WORLD_SIZE')}): unset both, or launch "
                "the processes again"
            )
        return process

    @classmethod
    def launched(cls, device: str = "auto") -> "Processes":
        """Connects the processes that accelerate's launcher has started; without a launcher there is one process.

        Args:
            device: Device of all processes; "auto" gives each process its own GPU if there are GPUs.
        """
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        return cls(
            state.process_index,
            state.num_processes,
            state.local_process_index,
            get_int_from_env(_LOCAL_NUM, 1),
            str(state.device) if device == "auto" else device,
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes reports and shows progress."""
        return self.rank == 0

    def own_device(self, device: str) -> str:
        """Returns the device of this process: its own GPU for "auto" and "cuda" if there are several processes."""
        if device in ("auto", "cuda") and torch.cuda.is_available() and self.num_processes > 1:
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return device

    def share(self, total: int) -> range:
        """Returns this process's part of `range(total)`; the parts of all processes are disjoint and complete."""
        return range(self.rank * total // self.num_processes, (self.rank + 1) * total // self.num_processes)

    def gather(self, items: Sequence[ItemT]) -> list[ItemT]:
        """Returns the items of all processes in the order of processes; every process has to call this."""
        if self.num_processes == 1:
            return list(items)
        from accelerate.utils import gather_object

        # The list is wrapped because accelerate joins the items of lists, whatever the items are.
        return [item for part in gather_object([list(items)]) for item in part]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Returns the rows `(n, ...)` of all processes in the order of processes, on the CPU.

        Processes may have different numbers of rows: they send tensors of the same size, padded at the end.
        """
        if self.num_processes == 1:
            return rows
        from accelerate.utils import gather

        sizes = self.gather([len(rows)])
        sent = rows.new_zeros(max(sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        received = gather(sent.to(self._collective_device())).cpu().unflatten(0, (self.num_processes, -1))
        return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])

    def raise_together(self, error: Exception | None) -> None:
        """Raises an error in all processes if one of them failed; the others would wait for it forever.

        Raises:
            ValueError: with the message of the first process that failed, if it was another process.
        """
        failures = self.gather([None if error is None else f"{error}"])
        if error is not None:
            raise error
        first = next((failure for failure in failures if failure is not None), None)
        if first is not None:
            raise ValueError(first)

    def _collective_device(self) -> Any:
        return "cpu" if torch.distributed.get_backend() == "gloo" else self.device
