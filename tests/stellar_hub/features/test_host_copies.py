import pytest
import torch

from stellar_hub.features.host_copies import HostCopies, copied


def test_cpu__copies_nothing() -> None:
    copies, tensor = HostCopies(torch.device("cpu")), torch.ones(3)
    assert copies.send(tensor) is tensor
    assert copies.fetch({"a": tensor}).wait()["a"] is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (0, 4)])
def test_copy__is_equal_and_apart(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(60)[: torch.Size(shape).numel()] % 7).reshape(shape).to(dtype)
    found = copied(tensor)
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert found.data_ptr() != tensor.data_ptr() or not found.numel()


@pytest.mark.gpu
def test_gpu__gives_back_what_it_got() -> None:
    copies = HostCopies(torch.device("cuda"))
    sent = [torch.full((1000, 1000), float(number)).pin_memory() for number in range(8)]
    fetched = [copies.fetch({"a": copies.send(tensor) + 1}) for tensor in sent]
    for number, found in enumerate(fetched):
        assert torch.equal(found.wait()["a"], torch.full((1000, 1000), number + 1.0))
        assert found.tensors["a"].is_pinned()
