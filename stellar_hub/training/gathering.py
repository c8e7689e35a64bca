"""Whole tensors out of sharded ones, and back: what a checkpoint holds does not tell how it was trained.

Gathering is done by all processes together, tensor by tensor; only the first one keeps the result.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from stellar_hub.modeling import StellarModel
from stellar_hub.training.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.sharding import is_sharded


def whole_tensor(value: Any) -> Any:
    """A sharded tensor's whole one; anything else as it is. All processes take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_weights(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    """A state dict of whole tensors on the CPU. All processes take part.

    Args:
        module: The model or a part of it, sharded or not.
        keep: Whether this process wants it; otherwise it gets an empty one.
    """
    gathered: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        whole = whole_tensor(tensor)
        if keep:
            gathered[name] = whole.detach().cpu().contiguous()
    return gathered


def gather_optimizer(optimizer: Optimizer, keep: bool) -> dict[str, Any]:
    """The optimizer's state dict with whole tensors, on the CPU where they were sharded. All processes take part.

    Args:
        optimizer: torch's own, not accelerate's.
        keep: Whether this process wants it; otherwise it gets one without state.
    """
    state_dict = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for index, values in state_dict["state"].items():
        whole = {name: on_cpu_if_sharded(value) for name, value in values.items()}
        if keep:
            state[index] = whole
    return {**state_dict, "state": state}


def on_cpu_if_sharded(value: Any) -> Any:
    """A sharded tensor's whole one, on the CPU: the device need not have room for all of them at a time."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def scatter_like(whole: Tensor, own: Any) -> Tensor:
    """This process's share of a whole tensor that each process has; the tensor itself where nothing is sharded.

    Args:
        whole: The whole tensor, on any device.
        own: The tensor that is to be replaced by it, sharded or not.
    """
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load whole tensors, which each process has, into a model, sharded or not.

    Raises:
        RuntimeError: if names or shapes are not the model's, as `load_state_dict` raises it.
    """
    own = model.state_dict()
    model.load_state_dict({name: scatter_like(tensor, own.get(name)) for name, tensor in weights.items()})


def load_optimizer(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Load a state dict of whole tensors, which each process has, into an optimizer of sharded parameters or others.

    Raises:
        ValueError: if it is of another number of parameters; LookupError or TypeError if it is none.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {
            name: scatter_like(value, parameters[index]) if has_shape_of(value, parameters[index]) else value
            for name, value in values.items()
        }
        for index, values in state_dict["state"].items()
    }
    optimizer.load_state_dict({**state_dict, "state": state})


def has_shape_of(value: Any, parameter: Tensor) -> bool:
    """Whether a state is one number for each of a parameter's; step counters are not."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def inference_model(model: StellarForPreTraining, is_main: bool) -> StellarModel | None:
    """The model for inference with all of its weights, in the main process; None in others. All processes call it.

    Of a sharded model it is a copy on the CPU, as the device is where room is short; else the model's own part.
    """
    if not is_sharded(model):
        return model.stellar if is_main else None
    weights = gather_weights(model.stellar, is_main)
    if not is_main:
        return None
    with torch.device("meta"):  # draws no random numbers
        copy = StellarModel(model.stellar.config)
    copy.load_state_dict(weights, assign=True)
    return copy
