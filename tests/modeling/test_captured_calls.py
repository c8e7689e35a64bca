import copy
import logging
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stellar_hub.modeling import StellarModel, captured_calls
from stellar_hub.modeling.captured_calls import CapturedCalls, Mode, compiled
from stellar_hub.modeling.graph_capture import CudaCapture
from tests.modeling.fake_capture import FakeCapture


def captured(model: StellarModel, capture: Any = None) -> FakeCapture:
    """Makes all calls of a model graphs, and returns what records them."""
    model.eval().requires_grad_(False)
    fake = capture or FakeCapture()
    model._captured = CapturedCalls(fake, default="graph")
    return fake


@pytest.fixture
def fast(model: StellarModel) -> StellarModel:
    captured(model)
    return model


def replays(model: StellarModel) -> int:
    assert model._captured is not None
    capture: Any = model._captured._capture
    return int(capture.num_replays)


class TestResults:
    def test_encode_and_decode__are_those_of_the_model(self, model: StellarModel, images: Tensor) -> None:
        with torch.no_grad():
            encoding = model.encode(images)
            decoded = model.decode(encoding)
            captured(model)
            for _ in range(2):
                again = model.encode(images)
                assert again.grid_size == encoding.grid_size
                torch.testing.assert_close(tuple(again), tuple(encoding), rtol=0, atol=0)
                torch.testing.assert_close(model.decode(*encoding), decoded, rtol=0, atol=0)
        assert replays(model) == 4

    def test_encoding__does_not_change_when_other_images_are_encoded(self, fast: StellarModel, images: Tensor) -> None:
        encoding = fast.encode(images)
        before = [x.clone() for x in encoding]
        fast.encode(1 - images)
        fast.decode(fast.encode(images.flip(0)))
        torch.testing.assert_close(list(encoding), before, rtol=0, atol=0)

    def test_grids_of_one_size__are_kept_apart(self, fast: StellarModel) -> None:
        wide = torch.rand(1, 3, 16, 64)
        tall = wide.transpose(2, 3).contiguous()
        for image in (wide, tall):
            plain = copy.deepcopy(fast)
            plain._captured = None
            assert torch.equal(fast.decode(fast.encode(image)), plain.decode(plain.encode(image)))

    def test_checks__still_see_what_the_user_passes(self, fast: StellarModel, images: Tensor) -> None:
        fast.encode(images)
        with pytest.raises(ValueError, match="0-255 range"):
            fast.encode(images * 255)
        with pytest.raises(ValueError, match="multiple of the patch size"):
            fast.encode(images[..., :31])

    def test_several_models_in_threads__get_their_own_results(
        self, build_model: Callable[..., StellarModel], images: Tensor
    ) -> None:
        models = [build_model(reconstruction_head="pixel") for _ in range(2)]
        with torch.no_grad():
            models[1].encoder.sparse_tokens += 1
            expected = [model.encode(images).semantics for model in models]
        for model in models:
            captured(model)
        wrong: list[int] = []

        def work(index: int) -> None:
            for _ in range(10):
                if not torch.equal(models[index].encode(images).semantics, expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(number % 2,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestCallsWithoutGraph:
    """Calls of which a graph would not know run as they are, and the next ordinary call is replayed again."""

    def runs_without(self, model: StellarModel, call: Callable[[], Any], images: Tensor) -> None:
        model.encode(images)
        before = replays(model)
        call()
        assert replays(model) == before
        model.encode(images)
        assert replays(model) == before + 1

    def test_gradient__reaches_the_images(self, fast: StellarModel, images: Tensor) -> None:
        given = images.clone().requires_grad_()
        self.runs_without(fast, lambda: fast.encode(given).semantics.sum().backward(), images)
        assert given.grad is not None

    def test_gradient__reaches_weights_that_want_it(self, fast: StellarModel, images: Tensor) -> None:
        def call() -> None:
            fast.encoder.sparse_tokens.requires_grad_(True)
            fast.encode(images).semantics.sum().backward()
            assert fast.encoder.sparse_tokens.grad is not None
            fast.requires_grad_(False)

        self.runs_without(fast, call, images)

    def test_autocast(self, fast: StellarModel, images: Tensor) -> None:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                fast.encode(images)

        self.runs_without(fast, call, images)

    def test_training(self, fast: StellarModel, images: Tensor) -> None:
        self.runs_without(fast, lambda: (fast.train(), fast.encode(images), fast.eval()), images)

    def test_hooks__are_called(self, fast: StellarModel, images: Tensor) -> None:
        seen: list[nn.Module] = []

        def call() -> None:
            handle = fast.encoder.blocks[0].register_forward_hook(lambda module, *_: seen.append(module))
            fast.encode(images)
            handle.remove()

        self.runs_without(fast, call, images)
        assert len(seen) == 1

    def test_hooks_on_all_modules__are_called(self, fast: StellarModel, images: Tensor) -> None:
        seen: list[nn.Module] = []

        def call() -> None:
            handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
            try:
                fast.encode(images)
            finally:
                handle.remove()

        self.runs_without(fast, call, images)
        assert fast.encoder.blocks[0] in seen

    def test_operations__are_counted(self, fast: StellarModel, images: Tensor) -> None:
        def call() -> None:
            with FlopCounterMode(display=False) as counter:
                fast.encode(images)
            assert counter.get_total_flops() > 0

        self.runs_without(fast, call, images)

    def test_vmap(self, fast: StellarModel, images: Tensor) -> None:
        def one(image: Tensor) -> Tensor:
            return fast._run("_encode_tensors", image[None])[0]

        self.runs_without(fast, lambda: torch.vmap(one)(images), images)

    def test_capture_that_is_not_possible_now(self, fast: StellarModel, images: Tensor) -> None:
        capture: Any = fast._captured._capture  # type: ignore[union-attr]

        def call() -> None:
            capture.possible = False
            fast.encode(images)
            capture.possible = True

        self.runs_without(fast, call, images)

    def test_hidden_states__leave_later_calls_captured(self, fast: StellarModel, images: Tensor) -> None:
        self.runs_without(fast, lambda: fast(images, output_hidden_states=True), images)


class TestChangedModel:
    def test_load_state_dict__is_seen(self, fast: StellarModel, images: Tensor) -> None:
        before = fast.encode(images).semantics
        fast.load_state_dict({name: 1.5 * tensor for name, tensor in fast.state_dict().items()})
        after = fast.encode(images).semantics
        assert replays(fast) == 2
        fast._captured = None
        assert not torch.equal(after, before)
        torch.testing.assert_close(fast.encode(images).semantics, after, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: model.to(torch.float64),
            lambda model: setattr(model.encoder, "sparse_tokens", nn.Parameter(model.encoder.sparse_tokens + 1)),
            lambda model: model.encoder.blocks.__setitem__(0, copy.deepcopy(model.encoder.blocks[1])),
            lambda model: model.load_state_dict({k: 2 * v for k, v in model.state_dict().items()}, assign=True),
            lambda model: setattr(model.encoder.norm.weight, "data", 2 * model.encoder.norm.weight.data),
        ],
        ids=["dtype", "parameter", "block", "assigned", "data"],
    )
    def test_other_tensors__end_the_graphs_and_give_the_new_result(
        self, fast: StellarModel, images: Tensor, caplog: pytest.LogCaptureFixture, change: Callable[[Any], object]
    ) -> None:
        fast.encode(images)
        change(fast.requires_grad_(False))
        found = [fast.encode(images) for _ in range(2)]
        fast._captured = None
        for encoding in found:
            torch.testing.assert_close(tuple(encoding), tuple(fast.encode(images)), rtol=0, atol=0)
        assert [record.levelname for record in caplog.records if "has changed" in record.message] == ["WARNING"]

    def test_to_where_it_is__keeps_the_graphs(self, fast: StellarModel, images: Tensor) -> None:
        fast.encode(images)
        fast.to("cpu").float().eval().encode(images)
        assert replays(fast) == 2


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_copy__has_graphs_of_its_own(
        self, fast: StellarModel, images: Tensor, duplicate: Callable[[StellarModel], StellarModel]
    ) -> None:
        before = fast.encode(images).semantics
        other = duplicate(fast)
        with torch.no_grad():
            other.encoder.sparse_tokens += 1
        after = other.encode(images).semantics
        assert not torch.equal(after, before)
        torch.testing.assert_close(fast.encode(images).semantics, before, rtol=0, atol=0)
        other.encode(images)
        assert replays(other) >= 2

    def test_saved_model__has_the_same_weights(self, fast: StellarModel, images: Tensor, tmp_path: Path) -> None:
        before = fast.encode(images).semantics
        fast.save_pretrained(tmp_path)
        loaded = StellarModel.from_pretrained(tmp_path)
        assert loaded._captured is None
        torch.testing.assert_close(loaded.encode(images).semantics, before, rtol=0, atol=0)


class TestMode:
    def test_measured_shape__has_its_mode_and_smaller_ones_are_captured_as_they_are(self) -> None:
        calls = CapturedCalls(FakeCapture())
        method, image = "_encode_tensors", torch.zeros(1, 3, 8, 8)
        kept: list[tuple[int, Mode, bool]] = [(1, "whole", True), (8, "graph", True), (64, "blocks", False)]
        for batch, mode, graph_pays in kept:
            calls.keep(method, (image.expand(batch, -1, -1, -1),), mode, graph_pays)
        sizes = {1: "whole", 2: "graph", 8: "graph", 9: "eager", 64: "blocks", 100: "eager"}
        for batch, expected in sizes.items():
            assert calls.mode(method, (image.expand(batch, -1, -1, -1),)) == expected
        assert calls.mode("_decode_tensors", (image,)) == "eager"

    def test_number_of_graphs__is_bounded_and_said_once(
        self,
        fast: StellarModel,
        images: Tensor,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(captured_calls, "MAX_GRAPHS", 2)
        capture: Any = fast._captured._capture  # type: ignore[union-attr]
        for batch in (1, 2, 3, 4):
            image = images[:1].expand(batch, -1, -1, -1)
            assert fast.encode(image).semantics.shape[0] == batch
        assert len(capture.graphs) == 2
        assert len([record for record in caplog.records if "2 shapes have graphs" in record.message]) == 1

    def test_capture_that_fails__leaves_the_call_as_it_is(
        self, model: StellarModel, images: Tensor, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(FakeCapture):
            def capture(self, *args: Any) -> Any:
                self.num_attempts = getattr(self, "num_attempts", 0) + 1
                raise torch.OutOfMemoryError("too small")

        expected = model.encode(images).semantics
        capture: Any = captured(model, Failing())
        for _ in range(2):
            torch.testing.assert_close(model.encode(images).semantics, expected, rtol=0, atol=0)
        assert capture.num_attempts == 1
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


class TestCompiled:
    def test_blocks__are_compiled_inside_the_context_alone(self, pixel_model: StellarModel) -> None:
        blocks = [*pixel_model.encoder.blocks, *pixel_model.decoder.blocks]  # type: ignore[union-attr]
        with compiled(pixel_model, lambda x: (x,), "blocks"):
            assert all(block._compiled_call_impl is not None for block in blocks)
        assert all(block._compiled_call_impl is None for block in blocks)

    @pytest.mark.slow  # a call compiled as a whole is among the golden values
    def test_result_with_compiled_blocks__is_that_of_the_model(self, pixel_model: StellarModel, images: Tensor) -> None:
        pixel_model.requires_grad_(False)
        encoding = pixel_model.encode(images)
        decoded = pixel_model.decode(encoding)
        pixel_model._captured = CapturedCalls(FakeCapture(), default="blocks")
        torch.testing.assert_close(tuple(pixel_model.encode(images)), tuple(encoding), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pixel_model.decode(*encoding), decoded, rtol=1e-3, atol=1e-4)
        assert replays(pixel_model) == 2


class TestTracing:
    def test_trace__sees_the_model_itself(self, fast: StellarModel, images: Tensor) -> None:
        expected = fast.encode(images).semantics
        traced = torch.jit.trace(lambda x: fast._run("_encode_tensors", x)[0], (images[:1],), check_trace=False)
        torch.testing.assert_close(traced(1 - images[:1]), fast.encode(1 - images).semantics[:1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fast.encode(images).semantics, expected, rtol=0, atol=0)

    def test_export__sees_the_model_itself(self, fast: StellarModel, images: Tensor) -> None:
        expected = fast.encode(images).semantics

        class Semantics(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = fast

            def forward(self, pixel_values: Tensor) -> Tensor:
                return self.model.encode(pixel_values).semantics

        program = torch.export.export(Semantics(), (images,)).module()
        torch.testing.assert_close(program(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("mode", ["graph", "blocks", "whole"])
    def test_result__is_that_of_the_model_and_stays(self, model: StellarModel, images: Tensor, mode: Any) -> None:
        model.cuda().requires_grad_(False)
        given = images.cuda()
        encoding, other = model.encode(given), model.encode(1 - given)
        decoded = model.decode(encoding)
        model._captured = CapturedCalls(CudaCapture(model.device), default=mode)
        first, second = model.encode(given), model.encode(1 - given)
        torch.testing.assert_close(tuple(first), tuple(encoding), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(tuple(second), tuple(other), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.decode(*encoding), decoded, rtol=1e-2, atol=1e-2)

    def test_moved_model__runs_where_it_is(self, pixel_model: StellarModel, images: Tensor) -> None:
        expected = pixel_model.encode(images).semantics
        captured(pixel_model.cuda(), CudaCapture(torch.device("cuda")))
        pixel_model.encode(images.cuda())
        torch.testing.assert_close(pixel_model.cpu().encode(images).semantics, expected, rtol=0, atol=0)

    def test_replay__waits_for_nothing(self, pixel_model: StellarModel, images: Tensor) -> None:
        captured(pixel_model.cuda(), CudaCapture(torch.device("cuda")))
        given = images.cuda()
        pixel_model.encode(given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            pixel_model.encode(given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
