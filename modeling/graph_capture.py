"""Captured calls: a function whose kernels are recorded once and then launched together, behind a small interface.

On a GPU, a small batch waits for the host, which launches hundreds of kernels one by one. A CUDA graph launches them at
once. `Capture` is all that the rest of the library sees of it, so that tests run the same code with a fake.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

NUM_WARM_UPS = 3  # calls before the capture: libraries choose kernels, allocate their workspaces, and compile

Function = Callable[..., tuple[Tensor, ...]]


class Graph(Protocol):
    """A recorded call.

    Attributes:
        outputs: Tensors that every replay overwrites.
    """

    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        """Runs the call again, with what its inputs hold now."""


class Capture(Protocol):
    """What records calls."""

    def capture(self, function: Function, inputs: tuple[Tensor, ...]) -> Graph:
        """Records `function(*inputs)`. Replays read the same inputs again, so their memory must stay."""

    def turn(self) -> AbstractContextManager[None]:
        """Waits until no other captured call runs, and keeps others waiting inside the block."""

    def is_possible(self) -> bool:
        """Returns whether a graph can be captured or replayed now."""


class CapturedCall:
    """A recorded function with copies of its inputs and outputs, so that no result changes later.

    Inputs must keep shapes, types and device. Calls from several threads take turns.

    Args:
        capture: What records the function.
        function: A function of tensors that returns a tuple of tensors. It is not kept.
        inputs: Its inputs, as examples.
    """

    def __init__(self, capture: Capture, function: Function, inputs: tuple[Tensor, ...]):
        self._capture = capture
        # Ordinary tensors, also where the caller is in inference mode: later calls, outside of it, must write to them.
        with capture.turn(), torch.inference_mode(False), torch.no_grad():
            self._inputs = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x) for x in inputs)
            self._graph = capture.capture(function, self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns new tensors with the function's outputs."""
        with self._capture.turn(), torch.no_grad():
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given)
            self._graph.replay()
            return tuple(output.clone() for output in self._graph.outputs)


# One for the process. torch allows one capture at a time, and graphs that run side by side could share the workspace of
# a matrix product.
_turns = threading.RLock()
_last_turns: dict[torch.device, torch.cuda.Event] = {}


class CudaCapture:
    """Records CUDA graphs on one device. All graphs of one object share their temporary memory.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device):
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def capture(self, function: Function, inputs: tuple[Tensor, ...]) -> Graph:
        """Records `function(*inputs)`; to be called inside `turn`."""
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(self.device), torch.cuda.graph_pool_handle()
        return CudaGraph(function, inputs, self._stream, self._pool)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for other threads on the host, and for their replays on the device, whichever stream they are on."""
        with _turns, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            last = _last_turns.setdefault(self.device, torch.cuda.Event())
            stream.wait_event(last)
            try:
                yield
            finally:
                last.record(stream)

    def is_possible(self) -> bool:
        """Returns False while a graph is being captured around this call: it then captures the function itself."""
        return not torch.cuda.is_current_stream_capturing()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None, "_pool": None}  # neither can be copied


class CudaGraph:
    """A CUDA graph of a call.

    Args:
        function: A function of tensors that returns a tuple of tensors.
        inputs: Its inputs.
        stream: Stream to capture on.
        pool: Handle of the memory that graphs share. Nothing in it needs to outlive a replay but `outputs`.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], stream: torch.cuda.Stream, pool: Any):
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(stream):
                for _ in range(NUM_WARM_UPS):
                    function(*inputs)
            # Errors of this thread alone: others may allocate memory meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self.outputs = function(*inputs)
        finally:
            torch.cuda.set_stream(current)  # a capture that fails leaves its own stream as the current one
        current.wait_stream(stream)

    def replay(self) -> None:
        """Launches the graph on the current stream."""
        self._graph.replay()


def default_capture(device: torch.device) -> Capture | None:
    """Returns what records calls on a device, or None where nothing does."""
    if device.type != "cuda":
        return None
    capture = CudaCapture(device)
    try:
        recorded(capture, lambda: (torch.zeros(1, device=device) + 1,))
    except RuntimeError as error:
        logger.warning("CUDA graphs cannot be captured here, so calls run without: %s", error)
        return None
    return capture


def recorded(capture: Capture, function: Callable[[], tuple[Tensor, ...]]) -> Callable[[], None]:
    """Records a function without inputs and returns what replays it, for measurements: nothing is copied."""
    with capture.turn(), torch.inference_mode(False), torch.no_grad():
        return capture.capture(function, ()).replay
