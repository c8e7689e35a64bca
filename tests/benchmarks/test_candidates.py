import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_parts.candidates import candidates
from stellar_hub.modeling import StellarModel
from tests.modeling.fake_capture import FakeCapture


def test_cpu__has_those_of_its_blocks(pixel_model: StellarModel) -> None:
    names = [candidate.name for candidate in candidates(pixel_model)]
    assert "encoder: linear layers packed for oneDNN" in names
    assert "decoder: attention not fused" in names
    assert len(names) == 6


def test_device_with_graphs__has_them_too(pixel_model: StellarModel) -> None:
    names = [candidate.name for candidate in candidates(pixel_model, FakeCapture)]
    assert names[-3:] == ["calls: graph", "calls: blocks", "calls: whole"]


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates of a GPU, on the CPU; float8 has its own tests."""
    from stellar_hub.modeling import inference_variants

    variants = inference_variants.parts_of

    def parts_of(model: StellarModel) -> list[inference_variants.Part]:
        with monkeypatch.context() as patch:
            patch.setattr(StellarModel, "device", torch.device("cuda"))
            return variants(model)

    monkeypatch.setattr("benchmarks.gpu_parts.candidates.parts_of", parts_of)


@pytest.mark.usefixtures("like_a_gpu")
def test_each__gives_the_same_results(model: StellarModel, images: Tensor) -> None:
    model.requires_grad_(False).half()
    encoding = model.encode(images)
    decoded = model.decode(encoding)
    found = [each for each in candidates(model, FakeCapture) if each.name not in ("calls: blocks", "calls: whole")]
    assert len(found) == 4 + 2 * (model.tokenizer is not None)
    for candidate in found:
        changed = copy.deepcopy(model)
        candidate.apply(changed)
        torch.testing.assert_close(tuple(changed.encode(images)), tuple(encoding), rtol=2e-2, atol=2e-2)
        assert (changed.decode(*encoding) - decoded).abs().mean() < 0.01


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each__gives_the_same_results_on_a_gpu(
    build_model: Callable[..., StellarModel], images: Tensor, dtype: torch.dtype
) -> None:
    model = build_model(reconstruction_head="vq").to("cuda", dtype).requires_grad_(False)
    encoding = model.encode(images.cuda())
    for candidate in candidates(model):
        changed = copy.deepcopy(model)
        candidate.apply(changed)
        tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-3
        if candidate.exact:
            torch.testing.assert_close(
                tuple(changed.encode(images.cuda())), tuple(encoding), rtol=tolerance, atol=tolerance
            )
