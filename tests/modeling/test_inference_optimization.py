import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from stellar_hub.modeling import StellarModel, inference_optimization
from stellar_hub.modeling.inference_optimization import Variant, fastest_variant, pack_linears
from stellar_hub.modeling.packed_linear import PackedLinear


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def packed_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny models it is not, and time is a matter of chance."""
    prefer(monkeypatch, Variant(packed=True, explicit_attention=True))


def prefer(monkeypatch: pytest.MonkeyPatch, fastest: Variant) -> None:
    def medians(calls: dict[Any, Any], rounds: int) -> dict[Any, float]:
        return {name: 0.5 if name == fastest else 1.0 for name in calls}

    monkeypatch.setattr(inference_optimization, "interleaved_medians", medians)


class TestOptimizeForInference:
    @pytest.mark.usefixtures("packed_is_fastest")
    def test_results__stay_within_rounding(
        self, pixel_model: StellarModel, vq_model: StellarModel, images: torch.Tensor
    ) -> None:
        for model in (pixel_model, vq_model):
            model.eval()
            with torch.inference_mode():
                expected = model.encode(images)
                decoded = model.decode(*expected)
                report = model.optimize_for_inference()
                torch.testing.assert_close(model.encode(images), expected, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(model.decode(*expected), decoded, rtol=1e-5, atol=1e-5)
            assert "linear layers packed for oneDNN and attention not fused" in str(report)

    @pytest.mark.usefixtures("packed_is_fastest")
    def test_saving__writes_what_it_would_have_written_before(
        self, pixel_model: StellarModel, images: torch.Tensor, tmp_path: Path
    ) -> None:
        expected = {name: tensor.clone() for name, tensor in pixel_model.state_dict().items()}
        pixel_model.optimize_for_inference()
        pixel_model.save_pretrained(tmp_path)
        loaded = StellarModel.from_pretrained(tmp_path).state_dict()
        assert list(loaded) == list(expected)
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)

    @pytest.mark.usefixtures("packed_is_fastest")
    def test_model__is_for_inference_afterwards(self, pixel_model: StellarModel) -> None:
        pixel_model.train().optimize_for_inference()
        assert not pixel_model.training
        assert not any(parameter.requires_grad for parameter in pixel_model.parameters())

    @pytest.mark.usefixtures("packed_is_fastest")
    def test_called_twice__changes_nothing_more(self, pixel_model: StellarModel, images: torch.Tensor) -> None:
        pixel_model.optimize_for_inference()
        once = pixel_model.encode(images)
        pixel_model.optimize_for_inference()
        torch.testing.assert_close(pixel_model.encode(images), once, rtol=1e-6, atol=1e-6)

    def test_dtype__is_converted_and_said(self, pixel_model: StellarModel) -> None:
        report = pixel_model.optimize_for_inference(torch.bfloat16)
        assert pixel_model.dtype == torch.bfloat16
        assert report.steps[0] == "dtype: bfloat16, was float32"

    def test_dtype_none__keeps_the_precision(self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inference_optimization, "prefers_bfloat16", lambda device: True)
        report = pixel_model.optimize_for_inference()
        assert pixel_model.dtype == torch.float32
        assert all(word in report.steps[0] for word in ("float32", "not changed", "bfloat16"))

    @pytest.mark.parametrize(("faster", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_dtype_auto__is_bfloat16_where_that_is_faster(
        self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch, faster: bool, expected: torch.dtype
    ) -> None:
        monkeypatch.setattr(inference_optimization, "prefers_bfloat16", lambda device: faster)
        pixel_model.optimize_for_inference("auto")
        assert pixel_model.dtype == expected

    @pytest.mark.parametrize("dtype", ["bf16", torch.int8])
    def test_dtype_that_is_none__is_refused(self, pixel_model: StellarModel, dtype: Any) -> None:
        with pytest.raises(ValueError, match='must be None, "auto" or a floating'):
            pixel_model.optimize_for_inference(dtype)

    def test_random_numbers__are_left_alone(self, pixel_model: StellarModel) -> None:
        before = torch.get_rng_state()
        pixel_model.optimize_for_inference()
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.slow
    def test_compile__gives_the_same_for_any_batch(self, pixel_model: StellarModel, images: torch.Tensor) -> None:
        with torch.inference_mode():
            expected = pixel_model.eval().encode(images)
            report = pixel_model.optimize_for_inference(compile=True)
            for batch in (3, 1, 2):
                actual = pixel_model.encode(images[:batch])
                torch.testing.assert_close(actual.semantics, expected.semantics[:batch], rtol=1e-4, atol=1e-5)
        assert "compiled" in str(report)


class TestFastestVariant:
    def test_winner__is_what_took_least(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for fastest in (Variant(True, False), Variant(False, True)):
            prefer(monkeypatch, fastest)
            best, before, after = fastest_variant(Block(32, 2).eval(), torch.randn(1, 5, 32))
            assert (best, before, after) == (fastest, 1.0, 0.5)

    def test_gain_within_noise__leaves_the_block_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            inference_optimization,
            "interleaved_medians",
            lambda calls, rounds: {variant: 0.99 if variant.packed else 1.0 for variant in calls},
        )
        best, _, _ = fastest_variant(Block(32, 2).eval(), torch.randn(1, 5, 32))
        assert best == Variant(False, False)

    def test_variant_that_computes_something_else__is_not_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prefer(monkeypatch, Variant(packed=True, explicit_attention=False))
        monkeypatch.setattr(PackedLinear, "forward", lambda self, x: x.new_zeros(*x.shape[:-1], self.out_features))
        best, _, _ = fastest_variant(Block(32, 2).eval(), torch.randn(1, 5, 32))
        assert not best.packed

    def test_block__is_not_changed_by_trying(self) -> None:
        block = Block(32, 2).eval()
        before = copy.deepcopy(block)
        fastest_variant(block, torch.randn(1, 5, 32))
        assert str(block) == str(before)


def test_pack_linears__fuses_exact_gelu_alone() -> None:
    exact, rough = Block(32, 2), Block(32, 2, act_layer=lambda: nn.GELU(approximate="tanh"))
    for block in (exact, rough):
        pack_linears(block.requires_grad_(False))
    assert exact.mlp.fc1.gelu
    assert isinstance(exact.mlp.act, nn.Identity)
    assert not rough.mlp.fc1.gelu
    assert isinstance(rough.mlp.act, nn.GELU)
