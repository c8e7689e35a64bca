"""Copies between the memory of this machine and that of a GPU, which no computation waits for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Fetched:
    """Tensors on their way to the CPU.

    Attributes:
        tensors: The tensors by name, on the CPU; those from a GPU are in pinned memory.
        done: Event after which they are complete; None if they are already.
    """

    tensors: dict[str, Tensor]
    done: Any = None

    def wait(self) -> dict[str, Tensor]:
        """Returns the tensors when they are complete, outside of pinned memory, which is scarce."""
        if self.done is None:
            return dict(self.tensors)
        self.done.synchronize()
        return {name: copied(tensor) for name, tensor in self.tensors.items()}


def copied(tensor: Tensor) -> Tensor:
    """Returns a copy of a contiguous tensor on the CPU.

    One thread makes it: torch would share it among as many threads as there are cores, and wait for those that data
    workers hold.
    """
    copy = torch.empty_like(tensor)
    np.copyto(copy.flatten().view(torch.uint8).numpy(), tensor.flatten().view(torch.uint8).numpy())
    return copy


class HostCopies:
    """Sends tensors to a device and fetches them from it.

    Each way has its own CUDA stream, so that copies run while the GPU computes. On a CPU nothing is copied.

    Args:
        device: Device of the computation.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._streams: tuple[Any, Any] | None = None

    def send(self, tensor: Tensor) -> Tensor:
        """Returns a tensor on the device; what the current stream does next waits for it.

        The copy runs beside the host if the tensor is in pinned memory; torch keeps that memory until it is done.
        """
        if self.device.type != "cuda":
            return tensor.to(self.device)
        current = torch.cuda.current_stream(self.device)
        if not tensor.is_cuda:
            sending, _ = self._both_streams()
            with torch.cuda.stream(sending):
                tensor = tensor.to(self.device, non_blocking=True)
            current.wait_stream(sending)
        tensor.record_stream(current)  # its memory belongs to the stream that it was made on
        return tensor

    def fetch(self, tensors: Mapping[str, Tensor]) -> Fetched:
        """Begins to copy tensors to the CPU, after all that the current stream has been given."""
        if self.device.type != "cuda":
            return Fetched({name: tensor.cpu() for name, tensor in tensors.items()})
        _, fetching = self._both_streams()
        fetching.wait_stream(torch.cuda.current_stream(self.device))
        found = {}
        with torch.cuda.stream(fetching):
            for name, tensor in tensors.items():
                found[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                found[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(fetching)
        return Fetched(found, fetching.record_event())

    def _both_streams(self) -> tuple[Any, Any]:
        if self._streams is None:
            self._streams = (torch.cuda.Stream(self.device), torch.cuda.Stream(self.device))
        return self._streams
