import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stellar_hub.modeling.packed_linear import PackedLinear, can_pack

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def linear(inputs: int = 24, outputs: int = 40, dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias).to(dtype).requires_grad_(False)


class TestForward:
    @given(
        rows=st.integers(0, 9),
        inputs=st.integers(1, 40),
        outputs=st.integers(1, 40),
        gelu=st.booleans(),
        bias=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    )
    @settings(max_examples=60, deadline=None)
    def test_values__are_those_of_the_layer_it_packs(
        self, rows: int, inputs: int, outputs: int, gelu: bool, bias: bool, dtype: torch.dtype
    ) -> None:
        layer = linear(inputs, outputs, dtype, bias)
        hidden_states = torch.randn(rows, 3, inputs).to(dtype)
        expected = layer(hidden_states)
        expected = F.gelu(expected) if gelu else expected
        tolerance = TOLERANCE.get(dtype, 1e-12)
        torch.testing.assert_close(PackedLinear(layer, gelu)(hidden_states), expected, rtol=tolerance, atol=tolerance)

    def test_input_that_takes_gradients__gets_them(self) -> None:
        layer = linear()
        hidden_states = torch.randn(5, 24, requires_grad=True)
        (expected,) = torch.autograd.grad(F.gelu(layer(hidden_states)).sum(), hidden_states)
        (actual,) = torch.autograd.grad(PackedLinear(layer, gelu=True)(hidden_states).sum(), hidden_states)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


class TestWeight:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_state_dict__is_that_of_the_layer_bit_for_bit(self, dtype: torch.dtype) -> None:
        layer = linear(768, 48, dtype)
        state_dict = PackedLinear(layer).state_dict()
        assert list(state_dict) == list(layer.state_dict())
        for name, expected in layer.state_dict().items():
            assert torch.equal(state_dict[name], expected)

    def test_weight__is_held_once(self) -> None:
        layer = linear()
        packed = PackedLinear(layer)
        assert can_pack(layer.weight)
        assert packed._weight.numel() == 0

    def test_conversion__goes_on_with_the_new_type(self) -> None:
        layer, hidden_states = linear(), torch.randn(5, 24)
        packed = PackedLinear(layer).double()
        assert packed.weight.dtype == torch.float64
        torch.testing.assert_close(packed(hidden_states.double()), layer.double()(hidden_states.double()))
        torch.testing.assert_close(packed.float()(hidden_states), layer.float()(hidden_states))

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
    def test_copies__compute_the_same(self, duplicate: object) -> None:
        packed, hidden_states = PackedLinear(linear(), gelu=True), torch.randn(5, 24)
        assert torch.equal(duplicate(packed)(hidden_states), packed(hidden_states))  # type: ignore[operator]


def test_can_pack__says_no_to_what_onednn_does_not_take() -> None:
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    assert not can_pack(torch.zeros(2, 2, device="meta"))
