"""FSDP2: each process holds a part of the weights, the gradients and the optimizer's state.

It is for models that do not fit on one device, and uses PyTorch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277).
Each transformer block is a unit whose weights are gathered while it runs. All other weights are one more unit, that of
the whole model. They stay gathered while the objective is computed, so that it can read prototypes, positions and
tokens everywhere.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from stellar_hub.modeling import StellarModel
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining

USE_FSDP2 = "`accelerate launch --use_fsdp --fsdp_version 2`"
# The optimizers of timm that give the same weights with shards as without. Others need operations that sharded tensors
# lack (adamp, novograd, "cautious" ones), give other weights (muon), or have a state with another shape than a weight.
SHARDED_OPTIMIZERS = ("adam", "adamax", "adamw", "adan", "lamb", "lion", "nadam", "nadamw", "radam", "rmsprop", "sgd")


def fsdp_plugin() -> FullyShardedDataParallelPlugin | None:
    """Returns the FSDP settings of the launcher (`accelerate launch --use_fsdp`); None if it does not use FSDP.

    accelerate itself ignores these settings on CPUs.

    Raises:
        ValueError: if the settings are for FSDP 1, for offloading, or for activation checkpointing.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"the launcher is set to FSDP {version}, but this trainer needs FSDP 2: use {USE_FSDP2}")
    # With efficient loading only the first process would have weights until accelerate wraps the model, which it never
    # does here.
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError(
            "this trainer cannot offload sharded weights to the CPU: set --fsdp_offload_params false, and launch more "
            "processes if the model does not fit"
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "--fsdp_activation_checkpointing is not supported: leave it out, and pass --set "
            "run.gradient_checkpointing=true"
        )
    return plugin


def shard_if_launched(model: StellarForPreTraining, accelerator: Accelerator, optimizer: str) -> bool:
    """Shards a model in place if the launcher uses FSDP and started a group of processes; returns whether it did.

    Raises:
        ValueError: if timm's optimizer of that name is not in `SHARDED_OPTIMIZERS`, or the precision is fp16.
    """
    plugin = fsdp_plugin()
    if plugin is None or not dist.is_initialized():
        return False
    if optimizer not in SHARDED_OPTIMIZERS:
        raise ValueError(
            f"optimization.optimizer must be one of {', '.join(SHARDED_OPTIMIZERS)} when FSDP shards the model, "
            f"got {optimizer}"
        )
    shard(model, accelerator, plugin)
    return True


def is_sharded(model: nn.Module) -> bool:
    """Returns whether `shard` was called on the model."""
    return isinstance(model, FSDPModule)


def shard(model: StellarForPreTraining, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Shards a model over all processes, in place; its parameters become `DTensor`s on the accelerator's device.

    All processes must hold the same weights. The teacher is sharded as the model is, so that its update needs no
    communication. The tokenizer is small and frozen, and stays whole in each process. Names in the state dict do not
    change. Build the optimizer afterwards.

    Args:
        model: The model, on any device.
        accelerator: The accelerator.
        plugin: Settings, which say whether blocks are freed after the forward pass and gathered again in the backward.

    Raises:
        ValueError: if the precision is fp16.
    """
    if accelerator.mixed_precision == "fp16":
        raise ValueError(
            "run.precision must not be fp16 when FSDP shards the model, as its scaler sees only one process: set it to "
            "bf16"
        )
    mesh = init_device_mesh(accelerator.device.type, (dist.get_world_size(),))
    policy = block_precision(accelerator)
    for block in transformer_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward), mp_policy=policy)
    replicated: set[nn.Parameter] = set()
    for part in (model.tokenizer_encoder, model.stellar.tokenizer):
        if part is not None:
            replicated |= set(part.to(accelerator.device).parameters())
    fully_shard(model, mesh=mesh, ignored_params=replicated)


def block_precision(accelerator: Accelerator) -> MixedPrecisionPolicy:
    """Returns the precision of blocks: bfloat16 where autocast uses it, with gradients summed in float32.

    With autocast alone, a bfloat16 copy of all blocks would stay until the backward pass, and sharding would save
    nothing. Activations between blocks stay float32, as without sharding. CPUs cannot compute a layer norm of float32
    with weights in bfloat16, so there the blocks stay float32 and autocast converts them.
    """
    if accelerator.mixed_precision != "bf16" or accelerator.device.type == "cpu":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def transformer_blocks(model: StellarForPreTraining) -> Iterator[nn.Module]:
    """Yields the transformer blocks of encoder, decoder and teacher."""
    for part in (model.stellar.encoder, model.stellar.decoder, getattr(model.teacher, "encoder", None)):
        if part is not None:
            yield from part.blocks


def full_tensor(value: Any) -> Any:
    """Returns the full tensor of a sharded one, and anything else as it is. All processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gather_weights(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Returns a state dict of full tensors on the CPU. All processes must call it.

    Args:
        module: The model or a part of it, sharded or not.
        keep: Whether this process needs the state dict; other processes get an empty one.
    """
    gathered: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        full = full_tensor(tensor)
        if keep:
            gathered[name] = full.detach().cpu().contiguous()
    return gathered


def gather_optimizer(optimizer: Optimizer, keep: bool) -> dict[str, Any]:
    """Returns the optimizer's state dict with full tensors; those that were sharded are on the CPU.

    All processes must call it.

    Args:
        optimizer: The optimizer of torch or timm, without accelerate's wrapper.
        keep: Whether this process needs the state; other processes get a state dict without it.
    """
    state_dict = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for index, values in state_dict["state"].items():
        full = {name: full_tensor_on_cpu(value) for name, value in values.items()}
        if keep:
            state[index] = full
    return {**state_dict, "state": state}


def full_tensor_on_cpu(value: Any) -> Any:
    """Returns the full tensor of a sharded one, on the CPU: the device may not have room for all of them at once."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def scatter_like(full: Tensor, own: Any) -> Tensor:
    """Returns this process's shard of a full tensor that each process has; the tensor itself if `own` is not sharded.

    Args:
        full: The full tensor, on any device.
        own: The tensor that the result replaces, sharded or not.
    """
    if not isinstance(own, DTensor):
        return full
    return distribute_tensor(full.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads full tensors, which each process has, into a model, sharded or not.

    Raises:
        RuntimeError: if names or shapes are not those of the model; `load_state_dict` raises it.
    """
    own = model.state_dict()
    model.load_state_dict({name: scatter_like(tensor, own.get(name)) for name, tensor in weights.items()})


def load_optimizer(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Loads a state dict of full tensors, which each process has, into an optimizer of sharded or other parameters.

    Raises:
        ValueError: if it is for another number of parameters.
        LookupError: if it is not a state dict of an optimizer; or TypeError.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {
            name: scatter_like(value, parameters[index]) if has_same_shape(value, parameters[index]) else value
            for name, value in values.items()
        }
        for index, values in state_dict["state"].items()
    }
    # How the update is computed belongs to this device, not to the one of the checkpoint.
    own = [{name: group[name] for name in ("foreach", "fused") if name in group} for group in optimizer.param_groups]
    saved = state_dict["param_groups"]
    groups = [{**group, **mine} for group, mine in zip(saved, own, strict=True)] if len(saved) == len(own) else saved
    optimizer.load_state_dict({**state_dict, "state": state, "param_groups": groups})


def has_same_shape(value: Any, parameter: Tensor) -> bool:
    """Returns whether an optimizer value has the shape of its parameter. Step counters do not."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def inference_model(model: StellarForPreTraining, is_main: bool) -> StellarModel | None:
    """Returns the model for inference with all weights in the main process, and None in others.

    Every process must call it.

    It is the model's own part or, if the model is sharded, a copy on the CPU: the device may not have room for it.
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
