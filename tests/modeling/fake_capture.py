"""A capture that any device can run: it calls the function again, and writes into the same outputs as a graph would."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from stellar_hub.modeling.graph_capture import Function

_turns = threading.RLock()


class FakeGraph:
    def __init__(self, function: Function, inputs: tuple[Tensor, ...]):
        self._function, self._inputs = function, inputs
        self.outputs = function(*inputs)
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1
        for kept, new in zip(self.outputs, self._function(*self._inputs), strict=True):
            kept.copy_(new)


class FakeCapture:
    def __init__(self, device: object = None):
        self.graphs: list[FakeGraph] = []
        self.possible = True

    @property
    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.graphs)

    def capture(self, function: Function, inputs: tuple[Tensor, ...]) -> FakeGraph:
        self.graphs.append(FakeGraph(function, inputs))
        return self.graphs[-1]

    @contextmanager
    def turn(self) -> Iterator[None]:
        with _turns:
            yield

    def __getstate__(self) -> dict[str, object]:
        return {"graphs": [], "possible": True}  # as of CUDA, graphs cannot be copied

    def is_possible(self) -> bool:
        return self.possible
