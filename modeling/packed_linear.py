"""Linear layers with weights packed for oneDNN: faster products on CPUs, in float32 above all on those of AMD."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKABLE = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """An `nn.Linear` for inference on a CPU, with exact GELU after it if asked.

    The packed weight takes the place of the plain one. It is no parameter, but stands in the state dict under its usual
    name and with its exact values; `.to(...)` unpacks it. Where gradients are asked of the input, the plain formula is
    used; the weight itself takes none.

    Args:
        linear: The layer; float32 or bfloat16, on the CPU.
        gelu: Whether GELU follows, which oneDNN computes while it writes the product.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.gelu = gelu
        self.bias = linear.bias
        self._weight = linear.weight.detach()
        self._packed: Tensor | None = None
        self.pack()

    def pack(self) -> None:
        """Pack the weight, if it is of a type and on a device for which that is possible."""
        if can_pack(self._weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight)
            self._weight = self._weight.new_empty(0)

    @property
    def weight(self) -> Tensor:
        """The plain weight, `(out_features, in_features)`; a copy where it is packed."""
        return self._weight if self._packed is None else self._packed.to_dense()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        differentiated = torch.is_grad_enabled() and hidden_states.requires_grad
        if self._packed is None or differentiated or hidden_states.dtype != self._packed.dtype:
            output = F.linear(hidden_states, self.weight, self.bias)
            return F.gelu(output) if self.gelu else output
        activation = "gelu" if self.gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self._packed, self.bias, activation, [], "none")

    def extra_repr(self) -> str:
        """As `nn.Linear` says it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, gelu={self.gelu}"

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._weight, self._packed = fn(self.weight), None
        self.pack()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # In the order of `nn.Linear`: weight, then bias.
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def __getstate__(self) -> dict[str, Any]:
        # Packed tensors can be neither copied nor pickled.
        return {**super().__getstate__(), "_weight": self.weight, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.pack()


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN takes a weight of this type, here."""
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return known and torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype in PACKABLE
