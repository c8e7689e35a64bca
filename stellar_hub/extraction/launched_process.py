"""Which process of a launch this is; none talks to the others."""

import os
from typing import NamedTuple

from accelerate.utils import get_int_from_env

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")

LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
MOST_WORKERS = 16


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
    return max(1, min(MOST_WORKERS, cores // max(1, process.num_local_processes)))
