from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.modeling import StellarModel, call_choices, inference_optimization, part_choices
from stellar_hub.modeling.call_choices import NAMES
from stellar_hub.modeling.inference_optimization import optimize
from stellar_hub.modeling.inference_variants import PACKED_AND_EXPLICIT
from tests.modeling.fake_capture import FakeCapture


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny models time is a matter of chance: packed layers and graphs win here."""

    def medians(calls: dict[Any, Any], device: torch.device) -> dict[Any, float]:
        return {name: 0.5 if name in (PACKED_AND_EXPLICIT, "graph") else 1.0 for name in calls}

    for module in (part_choices, call_choices):
        monkeypatch.setattr(module, "interleaved_medians", medians)


class TestOptimizeForInference:
    @pytest.mark.usefixtures("fastest")
    def test_results__stay_within_rounding(self, model: StellarModel, images: Tensor) -> None:
        with torch.inference_mode():
            expected = model.encode(images)
            decoded = model.decode(*expected)
            report = model.optimize_for_inference()
            torch.testing.assert_close(model.encode(images), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.decode(*expected), decoded, rtol=1e-5, atol=1e-5)
        assert "linear layers packed for oneDNN and attention not fused" in str(report)
        assert [choice.name for choice in report.choices] == ["encoder", "decoder"]

    @pytest.mark.usefixtures("fastest")
    def test_saving__writes_what_it_would_have_written_before(self, pixel_model: StellarModel, tmp_path: Path) -> None:
        expected = {name: tensor.clone() for name, tensor in pixel_model.state_dict().items()}
        pixel_model.optimize_for_inference()
        pixel_model.save_pretrained(tmp_path)
        loaded = StellarModel.from_pretrained(tmp_path).state_dict()
        assert list(loaded) == list(expected)
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)

    @pytest.mark.usefixtures("fastest")
    def test_model__is_for_inference_afterwards(self, pixel_model: StellarModel) -> None:
        pixel_model.train().optimize_for_inference()
        assert not pixel_model.training
        assert not any(parameter.requires_grad for parameter in pixel_model.parameters())

    @pytest.mark.usefixtures("fastest")
    def test_training_afterwards__is_a_warning_once(
        self, pixel_model: StellarModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        pixel_model.optimize_for_inference()
        pixel_model.eval()
        assert not caplog.messages
        pixel_model.train().eval().train()
        assert len(caplog.messages) == 1
        assert "from_pretrained" in caplog.messages[0]

    @pytest.mark.parametrize(
        "options", [{"batch_sizes": 0}, {"batch_sizes": [1.5]}, {"max_seconds": "a"}, {"compile": "yes"}]
    )
    def test_wrong_options__are_named(self, pixel_model: StellarModel, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            pixel_model.optimize_for_inference(**options)

    def test_called_twice__changes_nothing_more(self, pixel_model: StellarModel, images: Tensor) -> None:
        pixel_model.optimize_for_inference()
        once = pixel_model.encode(images)
        pixel_model.optimize_for_inference()
        torch.testing.assert_close(pixel_model.encode(images), once, rtol=1e-6, atol=1e-6)

    @pytest.mark.usefixtures("fastest")
    def test_random_numbers__are_left_alone(self, pixel_model: StellarModel) -> None:
        before = torch.get_rng_state()
        optimize(pixel_model, None, False, [1], make_capture=FakeCapture)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("sizes", [(), (0,), (1, -2)])
    def test_batch_sizes__must_be_positive(self, pixel_model: StellarModel, sizes: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            pixel_model.optimize_for_inference(batch_sizes=sizes)

    @pytest.mark.slow
    def test_compile__gives_the_same_for_any_batch(self, pixel_model: StellarModel, images: Tensor) -> None:
        with torch.inference_mode():
            expected = pixel_model.eval().encode(images)
            report = pixel_model.optimize_for_inference(compile=True)
            for batch in (3, 1, 2):
                actual = pixel_model.encode(images[:batch])
                torch.testing.assert_close(actual.semantics, expected.semantics[:batch], rtol=1e-4, atol=1e-5)
        assert "compiled" in str(report)


@pytest.mark.usefixtures("fastest")
class TestGraphs:
    def test_results__stay_within_rounding_and_come_from_graphs(self, model: StellarModel, images: Tensor) -> None:
        captures = []

        def make_capture(device: torch.device) -> FakeCapture:
            captures.append(FakeCapture())
            return captures[-1]

        with torch.inference_mode():
            expected = model.encode(images)
            decoded = model.decode(*expected)
            report = optimize(model, None, False, [1, 3], make_capture=make_capture)
            before = captures[0].num_replays
            torch.testing.assert_close(model.encode(images), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(model.decode(*expected), decoded, rtol=1e-5, atol=1e-5)
        assert captures[0].num_replays == before + 2
        chosen = [(choice.name, choice.batch_size) for choice in report.choices if choice.kept == NAMES["graph"]]
        assert sorted(chosen) == [("decode", 1), ("decode", 3), ("encode", 1), ("encode", 3)]

    def test_conversion_before_the_first_call__ends_the_graphs(self, pixel_model: StellarModel, images: Tensor) -> None:
        optimize(pixel_model, None, False, [3], make_capture=FakeCapture)
        converted = pixel_model.double().encode(images).semantics
        pixel_model._captured = None
        assert converted.dtype == torch.float64
        torch.testing.assert_close(converted, pixel_model.encode(images).semantics, rtol=0, atol=0)

    def test_optimized_again__measures_the_model_without_graphs(self, pixel_model: StellarModel) -> None:
        for _ in range(2):
            optimize(pixel_model, None, False, [1], make_capture=FakeCapture)
        capture: Any = pixel_model._captured._capture  # type: ignore[union-attr]
        assert len(capture.graphs) > 0

    def test_offloaded_weights__are_not_captured(self, pixel_model: StellarModel) -> None:
        pixel_model.localization.to("meta")
        report = optimize(pixel_model, None, False, [1], make_capture=FakeCapture)
        assert pixel_model._captured is None
        assert {choice.name for choice in report.choices} == {"encoder", "decoder"}


class TestDtype:
    def test_type__is_converted_and_said(self, pixel_model: StellarModel) -> None:
        report = pixel_model.optimize_for_inference(torch.bfloat16)
        assert pixel_model.dtype == torch.bfloat16
        assert report.steps[0] == "dtype: bfloat16, was float32"

    def test_none__keeps_the_precision(self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inference_optimization, "prefers_bfloat16", lambda device: True)
        report = pixel_model.optimize_for_inference()
        assert pixel_model.dtype == torch.float32
        assert all(word in report.steps[0] for word in ("float32", "not changed", "bfloat16"))

    @pytest.mark.parametrize(("faster", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_auto__is_bfloat16_where_that_is_faster(
        self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch, faster: bool, expected: torch.dtype
    ) -> None:
        monkeypatch.setattr(inference_optimization, "prefers_bfloat16", lambda device: faster)
        pixel_model.optimize_for_inference("auto")
        assert pixel_model.dtype == expected

    @pytest.mark.parametrize("dtype", ["bf16", torch.int8])
    def test_another__is_refused(self, pixel_model: StellarModel, dtype: Any) -> None:
        with pytest.raises(ValueError, match='must be None, "auto", "float8" or a floating'):
            pixel_model.optimize_for_inference(dtype)

    def test_float8__is_refused_on_a_cpu_and_changes_nothing(self, pixel_model: StellarModel) -> None:
        with pytest.raises(ValueError, match="needs a CUDA device"):
            pixel_model.train().optimize_for_inference("float8")
        assert pixel_model.training
        assert pixel_model.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("compile", [None, False])
def test_gpu__results_stay_within_rounding(
    build_model: Callable[..., StellarModel], images: Tensor, compile: bool | None
) -> None:
    model = build_model(reconstruction_head="pixel").cuda()
    given = images.cuda()
    with torch.inference_mode():
        expected = model.encode(given)
        decoded = model.decode(expected)
        report = model.optimize_for_inference(compile=compile, batch_sizes=[3, 64])
        torch.testing.assert_close(tuple(model.encode(given)), tuple(expected), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.decode(*expected), decoded, rtol=1e-3, atol=1e-3)
    assert {choice.name for choice in report.choices} >= {"encode", "decode", "patch projection"}
