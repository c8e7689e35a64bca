"""Linear layers of the encoder in float8, for GPUs that multiply it, by torchao: opt-in, because results change."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

MIN_CAPABILITY = (8, 9)  # Ada, Hopper and later multiply float8
SIDES = 16  # both sides of a weight must be multiples of this
MAX_DIFFERENCE_OF_FLOAT8 = 0.2  # relative, of one block's output: beyond it something is broken
# Of the encodings in float8 compared with those of the model as it was.
MIN_COSINE = 0.99  # mean cosine of the sparse tokens S
MIN_SAME_TOKEN = 0.95  # share of patches whose strongest token in L is the same


def check_float8(device: torch.device) -> None:
    """Raises an error unless a device multiplies float8 and torchao is installed.

    Raises:
        ImportError: if torchao is not installed.
        ValueError: if the device does not multiply float8.
    """
    hint = 'pass dtype="auto" for the fastest type that this device has'
    if device.type != "cuda":
        raise ValueError(f'dtype="float8" needs a CUDA device, and the model is on {device}: {hint}')
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        name, needed = torch.cuda.get_device_name(device), ".".join(map(str, MIN_CAPABILITY))
        raise ValueError(f'dtype="float8" needs a GPU of capability {needed} or above, and this is {name}: {hint}')
    try:
        import_module("torchao.quantization")
    except ImportError as error:
        raise ImportError("dtype=\"float8\" needs torchao: pip install 'stellar_hub[quantization]'") from error


def convert_linears(part: nn.Module, mlp_only: bool = False) -> None:
    """Converts the weights of linear layers below a module to float8, in place, with one scale a row.

    Args:
        part: The module; its weights must be bfloat16.
        mlp_only: Whether to leave attention as it is.
    """
    # Not an import statement: transformers would then demand torchao of everyone who loads this file from the Hub.
    quantization: Any = import_module("torchao.quantization")
    config = quantization.Float8DynamicActivationFloat8WeightConfig(
        granularity=quantization.PerRow(), set_inductor_config=False
    )
    chosen = set(linears(part, mlp_only))
    quantization.quantize_(part, config, filter_fn=lambda module, name: module in chosen)


def linears(part: nn.Module, mlp_only: bool = False) -> Iterable[nn.Linear]:
    """Returns the linear layers below a module whose sides float8 can have."""
    owners = [m for m in part.modules() if isinstance(m, Mlp)] if mlp_only else [part]
    layers = [m for owner in owners for m in owner.modules() if type(m) is nn.Linear]  # others compute in their own way
    layers = [x for x in layers if type(x.weight) is nn.Parameter]  # and weights that are quantized stay so
    return [x for x in layers if x.in_features % SIDES == 0 and x.out_features % SIDES == 0]


def is_converted(part: nn.Module) -> bool:
    """Returns whether linear layers below a module have quantized weights, in float8 or another way."""
    return any(type(m) is nn.Linear and type(m.weight) is not nn.Parameter for m in part.modules())


def keeps_encoding(encoding: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> tuple[bool, str]:
    """Returns whether an encoding `(S, L)` is close enough to the one expected, and how close it is, in words."""
    cosine = float(F.cosine_similarity(encoding[0].float(), expected[0].float(), dim=-1).mean())
    same = float((encoding[1].argmax(dim=-1) == expected[1].argmax(dim=-1)).float().mean())
    kept = cosine >= MIN_COSINE and same >= MIN_SAME_TOKEN
    return kept, f"cosine of S {cosine:.4f}, same token in L for {same:.1%} of the patches"


def refuse_to_save(module: nn.Module, *args: Any) -> None:
    """Raises ValueError; a hook before `state_dict`, which would have rounded weights under the names of the exact."""
    raise ValueError(
        "the weights of this model are rounded to float8 and cannot be saved: save the model before "
        'optimize_for_inference(dtype="float8")'
    )
