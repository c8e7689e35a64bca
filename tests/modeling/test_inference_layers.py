import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stellar_hub.modeling.inference_layers import GeluLinear, UnfoldedConv2d

on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


class TestGeluLinear:
    @on_devices
    def test_values__are_the_exact_gelus_within_the_resolution_of_the_type(self, device: str) -> None:
        layer = nn.Linear(24, 40).to(device, torch.bfloat16).requires_grad_(False)
        hidden_states = torch.randn(2, 5, 24, device=device, dtype=torch.bfloat16)
        expected = F.gelu(layer(hidden_states))
        torch.testing.assert_close(GeluLinear.of(layer)(hidden_states), expected, rtol=1e-2, atol=1e-2)

    def test_values__are_exact_on_a_cpu(self) -> None:
        layer, hidden_states = nn.Linear(24, 40).requires_grad_(False), torch.randn(2, 5, 24)
        torch.testing.assert_close(GeluLinear.of(layer)(hidden_states), F.gelu(layer(hidden_states)))

    def test_gradient__is_that_of_the_formula(self) -> None:
        layer, hidden_states = nn.Linear(6, 4).requires_grad_(False), torch.randn(5, 6, requires_grad=True)
        (expected,) = torch.autograd.grad(F.gelu(layer(hidden_states)).sum(), hidden_states)
        (actual,) = torch.autograd.grad(GeluLinear.of(layer)(hidden_states).sum(), hidden_states)
        torch.testing.assert_close(actual, expected)

    def test_autocast__chooses_the_type(self) -> None:
        layer = GeluLinear.of(nn.Linear(6, 4).requires_grad_(False))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(5, 6)).dtype == torch.bfloat16


class TestUnfoldedConv2d:
    @on_devices
    @pytest.mark.parametrize("bias", [True, False])
    def test_values__are_those_of_the_convolution(self, bias: bool, device: str) -> None:
        conv = nn.Conv2d(3, 16, (4, 8), stride=(4, 8), bias=bias).to(device).double()
        images = torch.randn(2, 3, 12, 16, device=device, dtype=torch.float64)
        torch.testing.assert_close(UnfoldedConv2d.of(conv)(images), conv(images))

    def test_gradients__are_those_of_the_convolution(self) -> None:
        conv, images = nn.Conv2d(3, 5, 4, stride=4).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
        expected = torch.autograd.grad(conv(images).square().sum(), list(conv.parameters()))
        actual = torch.autograd.grad(UnfoldedConv2d.of(conv)(images).square().sum(), list(conv.parameters()))
        torch.testing.assert_close(actual, expected)

    def test_layout__is_that_of_a_sequence(self) -> None:
        output = UnfoldedConv2d.of(nn.Conv2d(3, 5, 4, stride=4))(torch.randn(2, 3, 8, 8))
        assert output.flatten(2).transpose(1, 2).is_contiguous()

    @pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 4, "padding": 1}, {"stride": 4, "dilation": 2}])
    def test_patches_that_overlap__are_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="side by side"):
            UnfoldedConv2d.of(nn.Conv2d(3, 5, 4, **options))


@pytest.mark.parametrize(
    "layer", [GeluLinear.of(nn.Linear(6, 4)), UnfoldedConv2d.of(nn.Conv2d(3, 4, 2, stride=2))], ids=["gelu", "unfolded"]
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies__have_the_names_and_weights_of_the_plain_layer(layer: nn.Module, duplicate: object) -> None:
    state = duplicate(layer).state_dict()  # type: ignore[operator]
    assert list(state) == ["weight", "bias"]
    assert all(torch.equal(state[name], tensor) for name, tensor in layer.state_dict().items())
