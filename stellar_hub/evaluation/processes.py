"""The processes of an evaluation: what each one does, and putting it together with every sample counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

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
