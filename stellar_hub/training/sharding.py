"""FSDP2: weights, gradients and the optimizer's state shared out among the processes, for models that do not fit.

PyTorch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277). Each transformer block is a unit whose weights are
gathered while it runs. All the rest is one more unit, that of the whole model: it is gathered as long as the objective
is computed, so that prototypes, positions and tokens can be read wherever the objective needs them.
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
# Of timm's optimizers those that do with shards what they do with whole weights. Others stop at operations that sharded
# tensors lack (adamp, novograd, "cautious" ones), give other weights (muon), or have a state that is no weight's shape.
SHARDED_OPTIMIZERS = ("adam", "adamax", "adamw", "adan", "lamb", "lion", "nadam", "nadamw", "radam", "rmsprop", "sgd")


def launched_sharding() -> FullyShardedDataParallelPlugin | None:
    """What a launcher says of FSDP, as `accelerate launch --use_fsdp` and `accelerate config` do; None if nothing.

    Read here and not by accelerate, which takes no notice of it on CPUs.

    Raises:
        ValueError: if it asks for the first version, or for something that this trainer does otherwise or not at all.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"FSDP {version} is asked for, but this trainer shards with FSDP2: use {USE_FSDP2}")
    # Efficient loading would leave the weights of all processes but the first to be sent by accelerate's own wrapping.
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError(
            "offloading of sharded weights to the CPU is asked for, which this trainer cannot do: set "
            "--fsdp_offload_params false, and launch more processes if the model does not fit"
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "--fsdp_activation_checkpointing is asked for, but checkpointing is the recipe's: leave it out, and pass "
            "--set run.gradient_checkpointing=true"
        )
    return plugin


def shard_if_asked(model: StellarForPreTraining, accelerator: Accelerator, optimizer: str) -> bool:
    """Shard a model in place if a launcher asks for it, and started a group of processes; whether it did.

    Raises:
        ValueError: if `optimizer`, a name of timm's, is none of `SHARDED_OPTIMIZERS`; and what `shard` raises.
    """
    plugin = launched_sharding()
    if plugin is None or not dist.is_initialized():
        return False
    if optimizer not in SHARDED_OPTIMIZERS:
        raise ValueError(
            f"optimization.optimizer {optimizer} cannot be relied on where the model is sharded; choose one of "
            f"{', '.join(SHARDED_OPTIMIZERS)}"
        )
    shard(model, accelerator, plugin)
    return True


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on the model."""
    return isinstance(model, FSDPModule)


def shard(model: StellarForPreTraining, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Share a model out among all processes, in place; its parameters become `DTensor`s on the accelerator's device.

    All processes must hold the same weights. The teacher is sharded as the model is, so that following it takes no
    communication. Frozen parts that are small, those of the tokenizer, stay whole in each process. Names in the state
    dict stay as they are. The optimizer has to be built afterwards.

    Args:
        model: The model, on any device.
        accelerator: accelerate, of one process or several.
        plugin: Says whether blocks are given back after the forward pass, to be gathered again in the backward pass.

    Raises:
        ValueError: if the precision is fp16.
    """
    if accelerator.mixed_precision == "fp16":
        raise ValueError("run.precision fp16 cannot be sharded, as its scaler sees one process alone: set it to bf16")
    mesh = init_device_mesh(accelerator.device.type, (dist.get_world_size(),))
    policy = block_precision(accelerator)
    for block in transformer_blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=bool(plugin.reshard_after_forward), mp_policy=policy)
    whole: set[nn.Parameter] = set()
    for part in (model.tokenizer_encoder, model.stellar.tokenizer):
        if part is not None:
            whole |= set(part.to(accelerator.device).parameters())
    fully_shard(model, mesh=mesh, ignored_params=whole)


def block_precision(accelerator: Accelerator) -> MixedPrecisionPolicy:
    """Blocks are gathered as bfloat16 where autocast would make them so; gradients are summed in float32.

    Autocast alone would keep a bfloat16 copy of all blocks until the backward pass, and nothing would be saved. What
    goes from block to block stays float32, as without sharding. CPUs have no layer norm of float32 with weights in
    bfloat16: there autocast does it.
    """
    if accelerator.mixed_precision != "bf16" or accelerator.device.type == "cpu":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def transformer_blocks(model: StellarForPreTraining) -> Iterator[nn.Module]:
    """The blocks of encoder, decoder and teacher."""
    for part in (model.stellar.encoder, model.stellar.decoder, getattr(model.teacher, "encoder", None)):
        if part is not None:
            yield from part.blocks


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
