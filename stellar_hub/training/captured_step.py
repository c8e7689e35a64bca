"""Forward and backward of a step as one CUDA graph, for models whose kernels are shorter than their launches.

A graph repeats the kernels of one call at the same addresses. So a batch is copied into the tensors that the captured
call read, gradients are always the same tensors, and what the call returned is copied before anyone sees it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stellar_hub.training.model import StellarPreTrainingOutput

Inputs = Mapping[str, Tensor]
NUM_WARM_UP_CALLS = 3  # libraries choose their kernels and allocate workspaces in the first ones


class Graph(Protocol):
    """What a captured step needs of a graph: `CudaGraph`, or one that a test can run on a CPU."""

    def capture(self, function: Callable[[], StellarPreTrainingOutput]) -> StellarPreTrainingOutput:
        """Calls a function, remembers its kernels, and returns its result, which `replay` overwrites."""

    def replay(self) -> None:
        """Repeats the kernels."""


class CudaGraph:
    """A CUDA graph with memory of its own."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], StellarPreTrainingOutput]) -> StellarPreTrainingOutput:
        """Calls a function until its kernels are chosen, then captures it; see `Graph`."""
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            for _ in range(NUM_WARM_UP_CALLS):
                function()
        stream.wait_stream(side)
        try:
            # Other threads, such as the one that pins batches, may call CUDA meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                return function()
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails stays on its own

    def replay(self) -> None:
        """Launches the graph; see `Graph`."""
        self._graph.replay()


class CapturedStep:
    """Forward and backward of batches of one shape. A call returns the losses, and sets the gradients.

    Args:
        compute: Computes a batch and its gradients, without a value that the host must know.
        parameters: Parameters that get gradients.
        example: A batch on the device; later ones have the same names, shapes and types.
        graph: Graph to capture into; None makes a CUDA graph.

    Raises:
        RuntimeError: if the computation cannot be captured.
    """

    def __init__(
        self,
        compute: Callable[[Inputs], StellarPreTrainingOutput],
        parameters: Sequence[nn.Parameter],
        example: Inputs,
        graph: Graph | None = None,
    ):
        self._parameters = list(parameters)
        self._inputs = {name: value.clone() for name, value in example.items()}
        self._graph = CudaGraph() if graph is None else graph

        def run() -> StellarPreTrainingOutput:
            self._set_gradients([None] * len(self._parameters))  # else a replay would add to them
            return map_tensors(compute(self._inputs), Tensor.detach)

        self._output = self._graph.capture(run)
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._set_gradients([None] * len(self._parameters))

    def fits(self, batch: Inputs) -> bool:
        """Returns whether a batch has the names, shapes and types of the captured one."""
        return signature(batch) == signature(self._inputs)

    def __call__(self, batch: Inputs) -> StellarPreTrainingOutput:
        """Computes a batch that fits. The result is a copy; the gradients stay valid until the next call."""
        for name, value in batch.items():
            self._inputs[name].copy_(value, non_blocking=True)
        self._graph.replay()
        self._set_gradients(self._gradients)
        return map_tensors(self._output, Tensor.clone)

    def _set_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def signature(batch: Inputs) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Returns shape and type of each tensor of a batch."""
    return {name: (value.shape, value.dtype) for name, value in batch.items()}


def map_tensors(output: StellarPreTrainingOutput, change: Callable[[Tensor], Tensor]) -> StellarPreTrainingOutput:
    """Returns an output with each of its tensors changed."""
    changed: dict[str, Any] = {name: change(value) for name, value in output.items() if isinstance(value, Tensor)}
    return StellarPreTrainingOutput(**changed)
