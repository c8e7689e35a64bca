"""Linear layers with weights packed for oneDNN: faster products on CPUs, in float32 above all on AMD's."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKABLE = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer for inference on a CPU, with an optional exact GELU.

    The packed weight replaces the plain one. It is not a parameter and gets no gradient, but the state dict has it
    under its usual name and with its exact values. `.to(...)` unpacks it and packs it again if it can. An input that
    needs a gradient goes through the plain formula.

    Args:
        linear: The layer to pack; float32 or bfloat16, on the CPU.
        gelu: Whether a GELU follows. oneDNN computes it while it writes the product.
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
        """Packs the weight if oneDNN supports its type and device."""
        if can_pack(self._weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight)
            self._weight = self._weight.new_empty(0)

    @property
    def weight(self) -> Tensor:
        """The plain weight, `(out_features, in_features)`; a copy if it is packed."""
        return self._weight if self._packed is None else self._packed.to_dense()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Maps `(..., in_features)` to `(..., out_features)`."""
        differentiated = torch.is_grad_enabled() and hidden_states.requires_grad
        if self._packed is None or differentiated or hidden_states.dtype != self._packed.dtype:
            output = F.linear(hidden_states, self.weight, self.bias)
            return F.gelu(output) if self.gelu else output
        activation = "gelu" if self.gelu else "none"
        return torch.ops.mkldnn._linear_pointwise(hidden_states, self._packed, self.bias, activation, [], "none")

    def extra_repr(self) -> str:
        """Returns the sizes that `print(model)` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, gelu={self.gelu}"

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._weight, self._packed = fn(self.weight), None
        self.pack()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # In the order of `nn.Linear`: first weight, then bias.
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, shape = f"{prefix}weight", (self.out_features, self.in_features)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        unexpected_keys[:] = [name for name in unexpected_keys if name != key]
        if key not in state_dict:
            if strict:
                missing_keys.append(key)
        elif tuple(state_dict[key].shape) != shape:
            found = tuple(state_dict[key].shape)
            error_msgs.append(f"size mismatch for {key}: its shape is {found}, and the model has {shape}")
        else:
            old = self.weight
            self._weight, self._packed = state_dict[key].detach().to(old.device, old.dtype, copy=True), None
            self.pack()

    def __getstate__(self) -> dict[str, Any]:
        # Packed tensors can be neither copied nor pickled.
        return {**super().__getstate__(), "_weight": self.weight, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.pack()


def can_pack(weight: Tensor) -> bool:
    """Returns whether oneDNN can pack a weight of this type on this machine."""
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return known and torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype in PACKABLE
