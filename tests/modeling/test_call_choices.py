import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stellar_hub.modeling import StellarModel, call_choices
from stellar_hub.modeling.call_choices import NAMES, calls_of, choose_calls, measure_calls
from stellar_hub.modeling.captured_calls import CapturedCalls
from stellar_hub.modeling.graph_capture import CapturedCall
from tests.modeling.fake_capture import FakeCapture

LATER = time.perf_counter() + 1e6
Prefer = Callable[[str], None]


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Prefer:
    """Times are a matter of chance: `prefer(mode)` makes one mode take half of the time."""

    def install(mode: str) -> None:
        def medians(calls: dict[str, Any], device: torch.device) -> dict[str, float]:
            return {name: 0.5 if name == mode else 1.0 for name in calls}

        monkeypatch.setattr(call_choices, "interleaved_medians", medians)

    return install


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The method, the mode and the batch size of each call that was built; compilation is left out."""
    found: list[tuple[str, str, int]] = []
    build = CapturedCalls.build

    def spy(self: CapturedCalls, model: Any, method: str, mode: Any, inputs: Any, constants: Any) -> CapturedCall:
        found.append((method, mode, len(inputs[0])))
        return build(self, model, method, "graph", inputs, constants)

    monkeypatch.setattr(CapturedCalls, "build", spy)
    return found


class TestCallsOf:
    def test_inputs__are_those_of_the_models_size(self, vq_model: StellarModel) -> None:
        encode, decode = calls_of(vq_model, 3)
        assert encode.inputs[0].shape == (3, 3, 32, 32)
        assert encode.inputs[0].dtype == torch.uint8
        assert [x.shape for x in decode.inputs] == [(3, 4, 48), (3, 16, 4)]
        assert decode.run(vq_model)[0].shape == (3, 3, 32, 32)

    def test_model_without_decoder__encodes_alone(self, build_model: Callable[..., StellarModel]) -> None:
        assert [call.name for call in calls_of(build_model(use_decoder=False), 1)] == ["encode"]


class TestMeasureCalls:
    def test_size_that_does_not_fit__is_left_out_and_said(
        self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = StellarModel._encode_tensors

        def limited(self: StellarModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if len(pixel_values) > 2:
                raise torch.OutOfMemoryError("too small")
            return encode(self, pixel_values)

        monkeypatch.setattr(StellarModel, "_encode_tensors", limited)
        measured, lines = measure_calls(pixel_model, [3, 1])
        assert [(call.name, call.batch_size) for call, _ in measured] == [("encode", 1), ("decode", 1)]
        assert lines == ["batch 3: not measured, because memory is too small"]


class TestChooseCalls:
    def choose(self, model: StellarModel, modes: Any = ("graph",), deadline: float = LATER) -> Any:
        model.requires_grad_(False)
        measured = [(call, 1.0) for batch in (1, 2) for call in calls_of(model, batch)]
        captured, choices, lines = choose_calls(model, measured, FakeCapture(), modes, deadline)
        model._captured = captured
        return choices, lines, measured

    def test_winner__is_kept_for_its_shape_and_said(self, pixel_model: StellarModel, prefer: Prefer) -> None:
        prefer("graph")
        choices, lines, measured = self.choose(pixel_model)
        assert [(c.name, c.batch_size, c.kept) for c in choices] == [
            (name, batch, NAMES["graph"]) for batch in (1, 2) for name in ("encode", "decode")
        ]
        assert lines[0] == "encode: batch 1 graph, 1000.00 to 500.00 ms; batch 2 graph, 1000.00 to 500.00 ms"
        capture: Any = pixel_model._captured._capture  # type: ignore[union-attr]
        before = len(capture.graphs), capture.num_replays
        pixel_model.encode(measured[0][0].inputs[0])
        assert (len(capture.graphs), capture.num_replays) == (before[0], before[1] + 1)

    def test_no_gain__leaves_calls_as_they_are(self, pixel_model: StellarModel, prefer: Prefer) -> None:
        prefer("eager")
        choices, _, measured = self.choose(pixel_model)
        assert {choice.kept for choice in choices} == {NAMES["eager"]}
        capture: Any = pixel_model._captured._capture  # type: ignore[union-attr]
        before = capture.num_replays
        pixel_model.encode(measured[0][0].inputs[0])
        assert capture.num_replays == before

    def test_result_that_differs__is_not_chosen(
        self, pixel_model: StellarModel, prefer: Prefer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefer("graph")
        replay = CapturedCall.__call__
        monkeypatch.setattr(CapturedCall, "__call__", lambda self, *inputs: [1.1 * x for x in replay(self, *inputs)])
        choices, _, _ = self.choose(pixel_model)
        assert {choice.kept for choice in choices} == {NAMES["eager"]}

    def test_mode_that_fails__is_said(
        self, pixel_model: StellarModel, prefer: Prefer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

        prefer("graph")
        monkeypatch.setattr(FakeCapture, "capture", fail)
        choices, lines, _ = self.choose(pixel_model)
        assert {choice.kept for choice in choices} == {NAMES["eager"]}
        assert sum("not permitted" in line for line in lines) == 4

    def test_modes__are_tried_cheap_ones_and_large_batches_first(
        self, pixel_model: StellarModel, prefer: Prefer, built: list[tuple[str, str, int]]
    ) -> None:
        prefer("whole")
        choices, _, _ = self.choose(pixel_model, ("eager", "graph", "blocks", "whole"))
        assert [mode for _, mode, _ in built] == ["graph"] * 4 + ["blocks"] * 4 + ["whole"] * 4
        assert [batch for _, _, batch in built] == [2, 2, 1, 1] * 3
        assert {choice.kept for choice in choices} == {NAMES["whole"]}

    def test_deadline__ends_compilation_and_is_said(
        self, pixel_model: StellarModel, prefer: Prefer, built: list[tuple[str, str, int]]
    ) -> None:
        prefer("whole")
        _, lines, _ = self.choose(pixel_model, ("graph", "blocks", "whole"), deadline=time.perf_counter() - 1)
        assert {mode for _, mode, _ in built} == {"graph"}
        assert "time was over" in lines[-1]
