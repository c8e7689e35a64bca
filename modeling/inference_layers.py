"""Layers that compute the same in another way, which may be faster on a GPU; the state dict stays the same."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GeluLinear(nn.Linear):
    """A linear layer with GELU, which cuBLASLt computes while it writes the product.

    On CUDA this is the tanh approximation, which differs by at most 5e-4: less than float16 and bfloat16 resolve around
    1. On a CPU it is exact. An input that needs a gradient, or autocast, takes the plain, exact formula.
    """

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """Returns a layer with the parameters of another one, which it shares."""
        layer = cls(linear.in_features, linear.out_features, bias=True, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., out_features)`."""
        differentiated = torch.is_grad_enabled() and (hidden_states.requires_grad or self.weight.requires_grad)
        if differentiated or torch.is_autocast_enabled(hidden_states.device.type):
            return F.gelu(super().forward(hidden_states))
        rows = hidden_states.reshape(-1, self.in_features)
        output = torch.ops.aten._addmm_activation(self.bias, rows, self.weight.t(), use_gelu=True)
        return output.view(*hidden_states.shape[:-1], self.out_features)


class UnfoldedConv2d(nn.Conv2d):
    """A convolution whose patches do not overlap, as one matrix product of the unfolded patches.

    Its output is `(B, d, h, w)` with the channels last in memory, as the sequence of tokens wants them.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """Returns a layer with the parameters of another one, which it shares.

        Raises:
            ValueError: if the patches overlap or have gaps.
        """
        plain = conv.padding == (0, 0) and conv.dilation == (1, 1) and conv.groups == 1
        if conv.kernel_size != conv.stride or not plain:
            raise ValueError(f"the convolution must cut patches side by side, got {conv}")
        patch: Any = conv.kernel_size
        layer = cls(conv.in_channels, conv.out_channels, patch, patch, bias=conv.bias is not None, device="meta")
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(B, c, h p, w q)` to `(B, d, h, w)`; both sides must be multiples of the patch."""
        patches = images.unflatten(3, (-1, self.kernel_size[1])).unflatten(2, (-1, self.kernel_size[0]))
        rows = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, h, w, c p q)
        return F.linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
