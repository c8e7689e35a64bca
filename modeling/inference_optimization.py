"""`StellarModel.optimize_for_inference`: it measures on one block what may be faster, and keeps what is faster."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from .packed_linear import PackedLinear, can_pack

NUM_ROUNDS = 5
NUM_IMAGES = 4  # in the batch of a measurement: the share of attention differs between one image and several
MAX_TIME_RATIO = 0.97  # a variant must take at most this share of the plain block's time; more may be noise
MAX_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # relative, of a block's output


@dataclass(frozen=True)
class OptimizationReport:
    """The changes that were made to a model; `print` shows one a line.

    Attributes:
        steps: One sentence for each change.
    """

    steps: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.steps)

    __repr__ = __str__  # what a notebook shows


@dataclass(frozen=True)
class Variant:
    """A way to run a transformer block.

    Attributes:
        packed: Whether linear layers are packed for oneDNN, with GELU in the product.
        explicit_attention: Whether attention is two products and a softmax instead of the fused kernel.
    """

    packed: bool
    explicit_attention: bool

    def __str__(self) -> str:
        parts = ["linear layers packed for oneDNN"] * self.packed + ["attention not fused"] * self.explicit_attention
        return " and ".join(parts) or "not changed"

    def apply(self, block: nn.Module) -> None:
        """Changes a block of timm in place."""
        if self.packed:
            pack_linears(block)
        for module in block.modules():
            if self.explicit_attention and isinstance(module, Attention):
                # timm's own switch; it is final for TorchScript, which copies modules.
                module.fused_attn = False  # type: ignore[misc]


def pack_linears(module: nn.Module) -> None:
    """Packs all linear layers below a module, in place. The GELU of an MLP becomes part of the layer before it."""
    for part in list(module.modules()):
        fuses = isinstance(part, Mlp) and isinstance(part.act, nn.GELU) and part.act.approximate == "none"
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Linear) and can_pack(child.weight):
                gelu = fuses and name == "fc1"
                setattr(part, name, PackedLinear(child, gelu=gelu))
                if gelu:
                    part.act = nn.Identity()


def optimize(model: Any, dtype: torch.dtype | Literal["auto"] | None, compile: bool | None) -> OptimizationReport:
    """Changes a `StellarModel` in place; its method `optimize_for_inference` says what the arguments mean.

    Raises:
        ValueError: if `dtype` is not a floating-point type.
    """
    if dtype not in (None, "auto") and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f'dtype must be None, "auto" or a floating torch.dtype such as torch.bfloat16, got {dtype!r}')
    model.eval().requires_grad_(False)
    parts = {"encoder": model.encoder.blocks}
    if model.decoder is not None:
        parts["decoder"] = model.decoder.blocks
    steps = [choose_dtype(model, dtype)]
    if model.device.type == "cpu":
        num_patches = (model.config.image_size // model.config.patch_size) ** 2
        num_tokens = {"encoder": num_patches + 1 + model.config.num_sparse_tokens, "decoder": num_patches}
        steps += [optimize_blocks_on_cpu(name, blocks, num_tokens[name]) for name, blocks in parts.items()]
    elif model.tokenizer is not None:
        model.tokenizer.to(memory_format=torch.channels_last)
        steps.append("tokenizer: convolutions with channels last")
    if model.device.type == "cuda" if compile is None else compile:
        for blocks in parts.values():
            compile_blocks(blocks)
        steps.append("blocks are compiled: the first call with each new kind of input is slow, so use few image sizes")
    return OptimizationReport(tuple(steps))


def choose_dtype(model: Any, dtype: torch.dtype | Literal["auto"] | None) -> str:
    """Changes the model's dtype and returns a sentence about it."""
    before, name = model.dtype, str(model.dtype).removeprefix("torch.")
    faster = before == torch.float32 and dtype in (None, "auto") and prefers_bfloat16(model.device)
    if dtype == "auto":
        dtype = torch.bfloat16 if faster else None
    if dtype is None or dtype == before:
        hint = '; dtype="auto" would use bfloat16, which is faster here and less precise' if faster else ""
        return f"dtype: {name}, not changed{hint}"
    model.to(dtype)
    return f"dtype: {str(dtype).removeprefix('torch.')}, was {name}"


def optimize_blocks_on_cpu(name: str, blocks: nn.ModuleList, num_tokens: int) -> str:
    """Changes blocks of one kind to the variant that is fastest for the first one, and returns a sentence about it."""
    first: Any = blocks[0]
    weight = first.attn.qkv.weight
    generator = torch.Generator().manual_seed(0)  # not the global one, whose draws are the user's
    hidden_states = torch.randn(NUM_IMAGES, num_tokens, weight.shape[1], generator=generator).to(weight.dtype)
    best, before, after = fastest_variant(first, hidden_states)
    for block in blocks:
        best.apply(block)
    kept = best == Variant(packed=False, explicit_attention=False)
    timing = f"{1e3 * before:.1f} ms" + ("" if kept else f" to {1e3 * after:.1f} ms")
    return f"{name}: {best} (a block with {NUM_IMAGES} images: {timing}, {torch.get_num_threads()} threads)"


@torch.inference_mode()
def fastest_variant(block: nn.Module, hidden_states: Tensor) -> tuple[Variant, float, float]:
    """Returns the variant to choose for a block, and the median seconds of the plain block and of this variant."""
    plain = Variant(packed=False, explicit_attention=False)
    variants = [Variant(packed, explicit) for packed in (False, True) for explicit in (False, True)]
    expected = block(hidden_states).float()
    built: dict[Variant, Callable[[], Any]] = {}
    for variant in variants:
        changed = copy.deepcopy(block)
        variant.apply(changed)
        difference = (changed(hidden_states).float() - expected).norm() / expected.norm()
        if difference <= MAX_DIFFERENCE.get(hidden_states.dtype, 0):
            built[variant] = lambda changed=changed: changed(hidden_states)  # type: ignore[misc]
    seconds = interleaved_medians(built, NUM_ROUNDS)
    best = min(seconds, key=lambda variant: seconds[variant])
    if seconds[best] > MAX_TIME_RATIO * seconds[plain]:
        best = plain
    return best, seconds[plain], seconds[best]


def interleaved_medians(calls: dict[Variant, Callable[[], Any]], rounds: int) -> dict[Variant, float]:
    """Returns the median seconds of calls that take turns, after one round that does not count."""
    taken: dict[Variant, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compiles blocks one by one: blocks of one kind share a graph, and names in the state dict stay the same."""
    for block in blocks:
        block.compile(dynamic=True)


def prefers_bfloat16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 clearly faster than float32; on a CPU it measures."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    wide = torch.ones(512, 768)
    with torch.random.fork_rng(devices=[]):
        layers = {dtype: PackedLinear(nn.Linear(768, 768).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    calls: Any = {dtype: lambda dtype=dtype: layers[dtype](wide.to(dtype)) for dtype in layers}
    with torch.inference_mode():
        seconds: Any = interleaved_medians(calls, NUM_ROUNDS)
    return bool(seconds[torch.bfloat16] < 0.8 * seconds[torch.float32])
