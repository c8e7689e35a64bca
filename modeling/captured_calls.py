"""Which calls of a model run as captured graphs: a bounded number of shapes, and only where the result is the same."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .graph_capture import Capture, CapturedCall, Function
from .safe_text import one_line

logger = logging.getLogger(__name__)

MAX_GRAPHS = 16  # of one model; each keeps its inputs and outputs, and all share their temporary memory
MAX_RECOMPILES = 64  # torch gives up after 8 shapes of a function, in all models together

# How a call of one shape runs: as it is, as a graph, or as a graph of what torch.compile makes of each transformer
# block or of the whole call, for this shape alone.
Mode = Literal["eager", "graph", "blocks", "whole"]
MODES: tuple[Mode, ...] = ("eager", "graph", "blocks", "whole")
Shapes = tuple[str, tuple[torch.Size, ...]]  # a method and the shapes of its inputs


class CapturedCalls:
    """The captured calls of one model, by method and shape. They belong to `model._captured`.

    A shape that was measured runs in the mode that won. Another shape is captured as it is if it is not larger than the
    largest one for which a plain graph was faster. No graphs are captured beyond `MAX_GRAPHS`. All other calls run as
    they are, and so do calls of which a graph would not know: with gradients, autocast, hooks, or in training.

    Args:
        capture: What records graphs.
        default: Mode of shapes that were not measured; None decides by size.
    """

    def __init__(self, capture: Capture, default: Mode | None = None):
        self.modes: dict[Shapes, Mode] = {}
        self._capture = capture
        self._default = default
        self._max_size: dict[str, int] = {}
        self._calls: dict[Any, CapturedCall | None] = {}  # None where capturing failed
        self._state: _State | None = None  # of the model when the first call was captured
        self._is_full = False

    def run(self, model: Any, method: str, inputs: tuple[Tensor, ...], constants: dict[str, Any]) -> tuple[Tensor, ...]:
        """Returns what `model.method(*inputs, **constants)` returns, a tuple of tensors."""
        mode: Mode = "eager" if _is_watched(inputs[0]) else self.mode(method, inputs)
        if mode != "eager" and self._fits(model, inputs):
            call = self._call(model, method, mode, inputs, constants)
            if call is not None:
                outputs = call(*inputs)
                # Checked while the device computes. What a graph reads is kept alive, so a stale one does no harm.
                if self.is_up_to_date():
                    return outputs
        plain: tuple[Tensor, ...] = getattr(model, method)(*inputs, **constants)
        return plain

    def mode(self, method: str, inputs: tuple[Tensor, ...]) -> Mode:
        """Returns how a method runs with inputs of these shapes."""
        measured = self.modes.get((method, tuple(x.shape for x in inputs)))
        if measured is not None:
            return measured
        if self._default is not None:
            return self._default
        return "graph" if inputs[-1].numel() <= self._max_size.get(method, 0) else "eager"

    def keep(self, method: str, inputs: tuple[Tensor, ...], mode: Mode, graph_pays: bool) -> None:
        """Decides how a method runs with inputs of these shapes.

        Args:
            method: Name of the method.
            inputs: Its inputs.
            mode: The mode.
            graph_pays: Whether a plain graph is faster than the call as it is; it will be at smaller sizes, too.
        """
        self.modes[method, tuple(x.shape for x in inputs)] = mode
        if graph_pays:
            self._max_size[method] = max(self._max_size.get(method, 0), inputs[-1].numel())

    def build(
        self, model: Any, method: str, mode: Mode, inputs: tuple[Tensor, ...], constants: dict[str, Any]
    ) -> CapturedCall:
        """Captures a call in a mode.

        Raises:
            RuntimeError: if it cannot be captured, for instance for lack of memory.
        """
        bound = getattr(model, method)

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = bound(*tensors, **constants)
            return outputs

        with compiled(model, function, mode) as function_of_mode:
            return CapturedCall(self._capture, function_of_mode, inputs)

    def add(
        self, model: Any, method: str, inputs: tuple[Tensor, ...], constants: dict[str, Any], call: CapturedCall
    ) -> None:
        """Keeps a call of the model as it is now, which was captured already."""
        self._state = self._state or _State(model)
        self._calls[_key(method, inputs, constants)] = call

    def is_up_to_date(self) -> bool:
        """Returns whether the model's tensors and parts are those that were captured; if not, drops all graphs."""
        if self._state is None or self._state.holds():
            return True
        logger.warning(
            "the model has changed since optimize_for_inference: encode and decode run without graphs. "
            "Call optimize_for_inference again"
        )
        self._calls, self._state, self.modes, self._max_size, self._default = {}, None, {}, {}, "eager"
        return False

    def _fits(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
        """Whether a graph would compute what the call computes."""
        if model.training or not all(type(x) in (Tensor, nn.Parameter) for x in inputs):
            return False
        state = self._state = self._state or _State(model)
        if state.has_hooks() or any(x.device != state.device for x in inputs):
            return False
        differentiated = torch.is_grad_enabled() and (any(x.requires_grad for x in inputs) or state.takes_gradients())
        return not differentiated and self._capture.is_possible()

    def _call(
        self, model: Any, method: str, mode: Mode, inputs: tuple[Tensor, ...], constants: dict[str, Any]
    ) -> CapturedCall | None:
        key = _key(method, inputs, constants)
        if key in self._calls:
            return self._calls[key]
        with self._capture.turn():  # another thread may be capturing the same call
            if key not in self._calls and len(self._calls) < MAX_GRAPHS:
                self._calls[key] = self._attempt(model, method, mode, inputs, constants)
            elif key not in self._calls and not self._is_full:
                self._is_full = True
                logger.warning("%d shapes have graphs, others run without: use fewer shapes", MAX_GRAPHS)
            return self._calls.get(key)

    def _attempt(
        self, model: Any, method: str, mode: Mode, inputs: tuple[Tensor, ...], constants: dict[str, Any]
    ) -> CapturedCall | None:
        try:
            return self.build(model, method, mode, inputs, constants)
        except RuntimeError as error:  # out of memory among others: what is slower still works
            shape = tuple(inputs[0].shape)
            logger.warning("%s of shape %s runs without a graph: %s", method.strip("_"), shape, one_line(error))
            return None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model has other weights: it captures its own graphs when it needs them.
        return {**self.__dict__, "_calls": {}, "_state": None}


def _key(method: str, inputs: tuple[Tensor, ...], constants: dict[str, Any]) -> Any:
    return method, tuple(sorted(constants.items())), tuple((x.shape, x.dtype) for x in inputs)


def _is_watched(tensor: Tensor) -> bool:
    """Whether something around the call wants to see or change its operations: autocast, tracing, counters, vmap."""
    return (
        torch.is_autocast_enabled(tensor.device.type)
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
    )


@contextmanager
def compiled(model: Any, function: Function, mode: Mode) -> Iterator[Function]:
    """Gives what runs in a mode: the function, with compiled blocks inside the context, or the function compiled."""
    if mode not in ("blocks", "whole"):
        yield function
        return
    with many_recompiles():
        if mode == "whole":
            yield torch.compile(function, dynamic=False)
            return
        blocks = [*model.encoder.blocks, *(() if model.decoder is None else model.decoder.blocks)]
        before = [block._compiled_call_impl for block in blocks]
        try:
            compile_blocks(blocks, dynamic=False)
            yield function
        finally:
            for block, implementation in zip(blocks, before, strict=True):
                block._compiled_call_impl = implementation


def many_recompiles() -> AbstractContextManager[Any]:
    """Returns a context in which torch compiles one function for many shapes."""
    context: AbstractContextManager[Any] = torch._dynamo.config.patch(recompile_limit=MAX_RECOMPILES)
    return context


def compile_blocks(blocks: Any, dynamic: bool = True) -> None:
    """Compiles blocks one by one: blocks of one kind share a graph, and names in the state dict stay the same."""
    for block in blocks:
        block.compile(dynamic=dynamic)


class _State:
    """What a model was made of when it was captured: its tensors with their memory, its parts, its hooks.

    It is compared before each call, so it makes no loops in Python.
    """

    def __init__(self, model: nn.Module):
        modules = list(model.modules())
        self.device = next(model.parameters()).device
        self._owners: list[dict[str, Any]] = [
            owner for m in modules for owner in (m._parameters, m._buffers, m._modules) if owner
        ]
        self._owned = self._all_owned()  # kept, so that no other object gets their ids
        self._ids = list(map(id, self._owned))
        tensors = [x for x in self._owned if isinstance(x, Tensor)]
        # Tensors of other classes, such as quantized ones, have no single address.
        self._plain = [x for x in tensors if type(x) in (Tensor, nn.Parameter)]
        self._addresses = list(map(Tensor.data_ptr, self._plain))
        self._hooks: list[dict[int, Callable[..., Any]]] = [
            hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)
        ]

    def _all_owned(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._owners)))

    def holds(self) -> bool:
        """Whether the model still has these tensors, in this memory, and these parts."""
        same_objects = list(map(id, self._all_owned())) == self._ids
        return same_objects and list(map(Tensor.data_ptr, self._plain)) == self._addresses

    def takes_gradients(self) -> bool:
        return any(map(attrgetter("requires_grad"), self._plain))

    def has_hooks(self) -> bool:
        return any(self._hooks) or torch.nn.modules.module._has_any_global_hook()
