import threading

import pytest
import torch
from torch import Tensor

from stellar_hub.modeling.graph_capture import Capture, CapturedCall, CudaCapture, default_capture
from tests.modeling.fake_capture import FakeCapture


def double_and_sum(x: Tensor) -> tuple[Tensor, ...]:
    return 2 * x, x.sum(dim=0)


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def capture(request: pytest.FixtureRequest) -> Capture:
    return FakeCapture() if request.param == "fake" else CudaCapture(torch.device("cuda"))


@pytest.fixture
def device(capture: Capture) -> torch.device:
    return torch.device("cpu" if isinstance(capture, FakeCapture) else "cuda")


class TestCapturedCall:
    def test_outputs__are_the_functions_and_stay_when_it_is_called_again(
        self, capture: Capture, device: torch.device
    ) -> None:
        first, second = torch.rand(4, 3, device=device), torch.rand(4, 3, device=device)
        call = CapturedCall(capture, double_and_sum, (torch.zeros(4, 3, device=device),))
        once = call(first)
        call(second)
        torch.testing.assert_close(once, double_and_sum(first), rtol=0, atol=0)

    def test_input__may_change_after_the_call_and_before_the_next(self, capture: Capture, device: torch.device) -> None:
        images = torch.ones(4, 3, device=device)
        call = CapturedCall(capture, double_and_sum, (images,))
        outputs = call(images)
        images.fill_(7)
        assert outputs[0].unique().tolist() == [2]
        assert call(images)[0].unique().tolist() == [14]
        assert images.unique().tolist() == [7]

    def test_outputs_that_share_memory__are_separate(self, capture: Capture, device: torch.device) -> None:
        call = CapturedCall(capture, lambda x: (x, x), (torch.ones(3, device=device),))
        first, second = call(torch.ones(3, device=device))
        first.zero_()
        assert second.tolist() == call(torch.ones(3, device=device))[0].tolist() == [1, 1, 1]

    def test_inputs_in_another_layout__are_read_as_they_are(self, capture: Capture, device: torch.device) -> None:
        call = CapturedCall(capture, double_and_sum, (torch.zeros(4, 3, device=device),))
        transposed = torch.arange(12.0, device=device).view(3, 4).t()
        assert torch.equal(call(transposed)[0], 2 * transposed)

    def test_inference_mode__does_not_bind_later_calls(self, capture: Capture, device: torch.device) -> None:
        with torch.inference_mode():
            call = CapturedCall(capture, double_and_sum, (torch.zeros(4, 3, device=device),))
        weight = torch.ones(3, device=device, requires_grad=True)
        outputs = call(torch.ones(4, 3, device=device))
        (outputs[0] * weight).sum().backward()
        assert weight.grad is not None
        with torch.inference_mode():
            assert call(torch.ones(4, 3, device=device))[0].is_inference()

    def test_threads__get_their_own_results(self, capture: Capture, device: torch.device) -> None:
        calls = [CapturedCall(capture, double_and_sum, (torch.zeros(64, 64, device=device),)) for _ in range(2)]
        wrong: list[float] = []

        def work(number: int) -> None:
            stream = torch.cuda.Stream() if device.type == "cuda" else None
            with torch.cuda.stream(stream):
                for step in range(20):
                    value = float(number * 100 + step)
                    outputs = calls[step % 2](torch.full((64, 64), value, device=device))
                    if not bool((outputs[0] == 2 * value).all()):
                        wrong.append(value)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_default_capture__exists_on_cuda_alone() -> None:
    assert default_capture(torch.device("cpu")) is None


@pytest.mark.gpu
class TestCudaCapture:
    def test_stream__is_the_callers_again_after_a_capture_that_fails(self) -> None:
        capture, before = CudaCapture(torch.device("cuda")), torch.cuda.current_stream()
        with pytest.raises(RuntimeError):
            CapturedCall(capture, lambda x: (x * x.sum().item(),), (torch.ones(3, device="cuda"),))
        assert torch.cuda.current_stream() == before
        call = CapturedCall(capture, double_and_sum, (torch.ones(4, 3, device="cuda"),))
        assert call(torch.ones(4, 3, device="cuda"))[1].tolist() == [4, 4, 4]

    def test_is_possible__not_while_the_user_captures(self) -> None:
        capture = CudaCapture(torch.device("cuda"))
        seen = []
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            seen.append(capture.is_possible())
        assert [*seen, capture.is_possible()] == [False, True]
