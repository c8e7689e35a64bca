import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block

from stellar_hub.modeling import StellarModel, float8, part_choices
from stellar_hub.modeling.float8 import linears
from stellar_hub.modeling.inference_layers import GeluLinear
from stellar_hub.modeling.inference_variants import (
    EXPLICIT_ATTENTION,
    FLOAT8,
    FLOAT8_MLP,
    GELU_IN_PRODUCT,
    NOT_CHANGED,
    PACKED,
    Part,
    Variant,
)
from stellar_hub.modeling.packed_linear import PackedLinear
from stellar_hub.modeling.part_choices import best_variant, choose_float8, choose_part, describe, measure_part
from tests.modeling.fake_capture import FakeCapture

CPU = torch.device("cpu")


@pytest.fixture
def part() -> Part:
    blocks = [Block(32, 2).eval().requires_grad_(False) for _ in range(2)]
    variants = (NOT_CHANGED, EXPLICIT_ATTENTION, PACKED)
    return Part("encoder", list(blocks), lambda batch: torch.randn(batch, 5, 32), variants)


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Times are a matter of chance on tiny models: `prefer(variant)` makes these variants take half of the time."""

    def install(*fastest: Variant) -> None:
        def medians(calls: dict[Variant, Any], device: torch.device) -> dict[Variant, float]:
            return {name: 0.5 if name in fastest else 1.0 for name in calls}

        monkeypatch.setattr(part_choices, "interleaved_medians", medians)

    return install


class TestBestVariant:
    @pytest.mark.parametrize(
        ("plain", "packed", "expected"),
        [
            ((1, 1), (0.5, 0.9), PACKED),
            ((1, 1), (0.98, 0.98), NOT_CHANGED),  # may be noise
            ((1, 1), (1.0, 0.9), PACKED),
            ((1, 1), (1.1, 0.5), NOT_CHANGED),  # slower at one size
        ],
    )
    def test_winner__gains_at_one_size_and_loses_at_none(
        self, plain: tuple[float, ...], packed: tuple[float, ...], expected: Variant
    ) -> None:
        assert best_variant([{NOT_CHANGED: a, PACKED: b} for a, b in zip(plain, packed, strict=True)]) == expected

    def test_variant_that_was_not_measured_at_each_size__is_not_chosen(self) -> None:
        assert best_variant([{NOT_CHANGED: 1, PACKED: 0.1}, {NOT_CHANGED: 1}]) == NOT_CHANGED

    def test_nothing_measured__changes_nothing(self) -> None:
        assert best_variant([]) == NOT_CHANGED


class TestChoosePart:
    def test_fastest__changes_all_modules_and_is_told(self, part: Part, prefer: Callable[..., None]) -> None:
        prefer(PACKED)
        (choice,) = choose_part(part, [3], CPU, None)
        assert (choice.name, choice.batch_size, choice.kept) == ("encoder", 3, PACKED.name)
        assert (choice.seconds_before, choice.seconds_after) == (1.0, 0.5)
        assert all(isinstance(block.mlp.fc1, PackedLinear) for block in part.modules)
        assert "a block with 3 images 1000.00 to 500.00 ms" in describe([choice], CPU)

    def test_variant_that_computes_something_else__is_not_chosen(
        self, part: Part, prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefer(PACKED)
        monkeypatch.setattr(PackedLinear, "forward", lambda self, x: x.new_zeros(*x.shape[:-1], self.out_features))
        assert choose_part(part, [3], CPU, None)[0].kept == NOT_CHANGED.name

    def test_variant_that_fails__is_not_chosen(
        self, part: Part, prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any) -> None:
            raise RuntimeError("not implemented for this type")

        prefer(PACKED)
        monkeypatch.setattr(PackedLinear, "forward", fail)
        assert choose_part(part, [3], CPU, None)[0].kept == NOT_CHANGED.name

    def test_size_that_does_not_fit__is_left_out(self, part: Part, prefer: Callable[..., None]) -> None:
        def inputs(batch: int) -> torch.Tensor:
            if batch > 8:
                raise torch.OutOfMemoryError("too small")
            return torch.randn(batch, 5, 32)

        prefer(PACKED)
        small = Part("encoder", part.modules, inputs, part.variants)
        assert list(measure_part(small, [2, 256], torch.device("meta"), None)) == [2]

    def test_result_that_is_not_finite__changes_nothing(self, part: Part, prefer: Callable[..., None]) -> None:
        prefer(PACKED)
        broken = Part("encoder", part.modules, lambda batch: torch.full((batch, 5, 32), torch.inf), part.variants)
        assert choose_part(broken, [3], CPU, None)[0].kept == NOT_CHANGED.name

    def test_module__is_not_changed_by_trying(self, part: Part, prefer: Callable[..., None]) -> None:
        prefer()
        before = copy.deepcopy(part.modules[0])
        choose_part(part, [2], CPU, None)
        assert str(part.modules[0]) == str(before)

    def test_capture__is_what_is_timed(self, part: Part) -> None:
        capture = FakeCapture()
        measure_part(part, [2], CPU, capture)
        assert len(capture.graphs) == len(part.variants)
        assert all(graph.num_replays > 0 for graph in capture.graphs)


class TestChooseFloat8:
    @pytest.fixture(autouse=True)
    def rounding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What torchao does to weights, without its kernels, which no CPU has."""

        def round_weights(block: torch.nn.Module, mlp_only: bool = False) -> None:
            for layer in linears(block, mlp_only):
                rounded = layer.weight.to(torch.float8_e4m3fn).to(layer.weight.dtype)
                layer.weight = torch.nn.Parameter(rounded, requires_grad=False)

        for name, variant, mlp_only in (("FLOAT8", FLOAT8, False), ("FLOAT8_MLP", FLOAT8_MLP, True)):
            rounded = Variant(variant.name, partial(round_weights, mlp_only=mlp_only))
            monkeypatch.setattr(part_choices, name, rounded)

    def choose(self, model: StellarModel, images: torch.Tensor) -> tuple[str, list[Any]]:
        model.requires_grad_(False)
        expected = tuple(model.encode(images))
        return choose_float8(model.bfloat16(), images, expected, 2, None, compiled=False)

    def test_faster_and_close__is_kept_and_cannot_be_saved(
        self, pixel_model: StellarModel, images: torch.Tensor, prefer: Callable[..., None]
    ) -> None:
        prefer(FLOAT8, FLOAT8_MLP)
        before = pixel_model.encoder.blocks[0].attn.qkv.weight.clone()
        line, choices = self.choose(pixel_model, images)
        assert choices[0].kept == FLOAT8.name
        assert "cosine of S 0.99" in line
        assert not torch.equal(pixel_model.encoder.blocks[0].attn.qkv.weight.float(), before)
        with pytest.raises(ValueError, match="rounded to float8"):
            pixel_model.state_dict()

    def test_not_faster__is_not_kept(
        self, pixel_model: StellarModel, images: torch.Tensor, prefer: Callable[..., None]
    ) -> None:
        prefer()
        line, choices = self.choose(pixel_model, images)
        assert choices == []
        assert "not kept" in line
        assert "not faster" in line

    def test_encoding_that_changes__gives_back_the_weights(
        self,
        pixel_model: StellarModel,
        images: torch.Tensor,
        prefer: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        prefer(FLOAT8, FLOAT8_MLP)
        monkeypatch.setattr(float8, "MIN_COSINE", 1.1)
        before = {name: tensor.bfloat16() for name, tensor in pixel_model.encoder.state_dict().items()}
        line, choices = self.choose(pixel_model, images)
        assert choices == []
        assert line.count("change the encoding too much") == 2
        assert all(torch.equal(pixel_model.encoder.state_dict()[name], before[name]) for name in before)

    def test_second_call__leaves_quantized_weights(
        self, pixel_model: StellarModel, images: torch.Tensor, prefer: Callable[..., None]
    ) -> None:
        class Quantized(torch.Tensor):
            """What torchao puts into the place of a weight."""

        prefer(FLOAT8, FLOAT8_MLP)
        for layer in linears(pixel_model.encoder):
            layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Quantized), requires_grad=False)
        before = [id(parameter) for parameter in pixel_model.encoder.parameters()]
        line, choices = choose_float8(pixel_model, images, tuple(pixel_model.encode(images)), 2, None, compiled=False)
        assert "quantized already" in line
        assert choices == []
        assert [id(parameter) for parameter in pixel_model.encoder.parameters()] == before

    def test_gelu_in_the_product__leaves_it_alone(self, pixel_model: StellarModel) -> None:
        block = pixel_model.encoder.blocks[0].requires_grad_(False)
        GELU_IN_PRODUCT.apply(block)
        assert not any(isinstance(layer, GeluLinear) for layer in linears(block))
