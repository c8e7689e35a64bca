"""The ways to compute a part of the model that `optimize_for_inference` may choose from, and the parts they change."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from .float8 import convert_linears
from .inference_layers import GeluLinear, UnfoldedConv2d
from .packed_linear import PackedLinear, can_pack


@dataclass(frozen=True)
class Variant:
    """A way to compute a part of the model.

    Attributes:
        name: What a report says.
        apply: Changes a module of the part in place.
    """

    name: str
    apply: Callable[[Any], None] = field(compare=False)


@dataclass(frozen=True)
class Part:
    """A part of the model that is measured alone.

    Attributes:
        name: What a report says.
        modules: Modules of one kind, of which the first is measured.
        make_inputs: Makes inputs of the first module for a number of images.
        variants: The ways to compute it, the plain one first.
        run: Calls a module; what follows it in the model may be part of the cost.
        max_difference: Largest relative difference of a result; None means that of rounding in its type.
    """

    name: str
    modules: list[nn.Module]
    make_inputs: Callable[[int], Tensor]
    variants: tuple[Variant, ...]
    run: Callable[[Any, Tensor], Tensor] = lambda module, x: module(x)
    max_difference: float | None = None

    def changed(self, variant: Variant) -> nn.Module:
        """Returns a copy of the first module, computed in another way."""
        module = copy.deepcopy(self.modules[0])
        variant.apply(module)
        return module

    def apply(self, variant: Variant) -> None:
        """Changes all modules, in place."""
        for module in self.modules:
            variant.apply(module)


def _nothing(module: nn.Module) -> None:
    """Changes nothing."""


def _packed(block: nn.Module) -> None:
    pack_linears(block)


def _explicit_attention(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, Attention):
            # timm's own switch; it is final for TorchScript, which copies modules.
            module.fused_attn = False  # type: ignore[misc]


def _packed_and_explicit(block: nn.Module) -> None:
    _packed(block)
    _explicit_attention(block)


def _gelu_in_product(block: nn.Module) -> None:
    for part in list(block.modules()):
        if _has_exact_gelu(part) and type(part.fc1) is nn.Linear and part.fc1.bias is not None:
            part.fc1, part.act = GeluLinear.of(part.fc1), nn.Identity()


def _unfolded(embedding: nn.Module) -> None:
    if type(embedding.proj) is nn.Conv2d:
        embedding.proj = UnfoldedConv2d.of(embedding.proj)


def _channels_last(tokenizer: nn.Module) -> None:
    tokenizer.to(memory_format=torch.channels_last)


def _channels_first(tokenizer: Any) -> None:
    tokenizer.channels_first = True


NOT_CHANGED = Variant("not changed", _nothing)
PACKED = Variant("linear layers packed for oneDNN", _packed)
EXPLICIT_ATTENTION = Variant("attention not fused", _explicit_attention)
PACKED_AND_EXPLICIT = Variant("linear layers packed for oneDNN and attention not fused", _packed_and_explicit)
GELU_IN_PRODUCT = Variant("GELU in the product", _gelu_in_product)
UNFOLDED = Variant("matrix product of unfolded patches", _unfolded)
CHANNELS_LAST = Variant("weights with channels last", _channels_last)
CHANNELS_FIRST = Variant("channels first", _channels_first)
FLOAT8 = Variant("linear layers in float8", convert_linears)
FLOAT8_MLP = Variant("linear layers of the MLP in float8", lambda block: convert_linears(block, mlp_only=True))


def pack_linears(module: nn.Module) -> None:
    """Packs all linear layers below a module, in place. The GELU of an MLP becomes part of the layer before it."""
    for part in list(module.modules()):
        fuses = _has_exact_gelu(part)
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Linear) and can_pack(child.weight):
                gelu = fuses and name == "fc1"
                setattr(part, name, PackedLinear(child, gelu=gelu or isinstance(child, GeluLinear)))
                if gelu:
                    part.act = nn.Identity()


def _has_exact_gelu(part: nn.Module) -> bool:
    return isinstance(part, Mlp) and isinstance(part.act, nn.GELU) and part.act.approximate == "none"


def parts_of(model: Any) -> list[Part]:
    """Returns the parts of a `StellarModel` for which this device has more than one way."""
    device = model.device
    variants = _block_variants(device, model.dtype)
    parts = [encoder_part(model, variants)]
    if model.decoder is not None:
        blocks = model.decoder.blocks
        parts.append(Part("decoder", list(blocks), _normal(blocks[0], _num_patches(model)), variants))
    # On a CPU, neither of these is faster (docs/performance.md), and measuring them takes seconds.
    if device.type != "cpu":
        embedding = model.encoder.patch_embed
        parts.append(Part("patch projection", [embedding], _images(model), (NOT_CHANGED, UNFOLDED), _project))
        if model.tokenizer is not None:
            layouts = (NOT_CHANGED, CHANNELS_LAST, CHANNELS_FIRST)
            parts.append(Part("tokenizer", [model.tokenizer], _codes(model), layouts))
    return [part for part in parts if len(part.variants) > 1]


def encoder_part(model: Any, variants: tuple[Variant, ...], max_difference: float | None = None) -> Part:
    """Returns the encoder's blocks as a part with these variants."""
    blocks = model.encoder.blocks
    num_tokens = _num_patches(model) + 1 + model.config.num_sparse_tokens
    return Part("encoder", list(blocks), _normal(blocks[0], num_tokens), variants, max_difference=max_difference)


def _num_patches(model: Any) -> int:
    return int((model.config.image_size // model.config.patch_size) ** 2)


def _block_variants(device: torch.device, dtype: torch.dtype) -> tuple[Variant, ...]:
    if device.type == "cpu":
        return NOT_CHANGED, EXPLICIT_ATTENTION, PACKED, PACKED_AND_EXPLICIT
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return NOT_CHANGED, GELU_IN_PRODUCT
    return (NOT_CHANGED,)


# Random numbers are drawn on the CPU, whose state `optimize_for_inference` restores.
def _normal(block: Any, num_tokens: int) -> Callable[[int], Tensor]:
    weight = block.norm1.weight

    def make(batch: int) -> Tensor:
        return torch.randn(batch, num_tokens, weight.shape[0]).to(weight.device, weight.dtype)

    return make


def _images(model: Any) -> Callable[[int], Tensor]:
    def make(batch: int) -> Tensor:
        side = model.config.image_size
        return torch.randn(batch, model.config.num_channels, side, side).to(model.device, model.dtype)

    return make


def _codes(model: Any) -> Callable[[int], Tensor]:
    def make(batch: int) -> Tensor:
        grid = model.grid_size(model.config.image_size, model.config.image_size)
        return torch.randint(model.config.codebook_size, (batch, *grid)).to(model.device)

    return make


def _project(embedding: Any, images: Tensor) -> Tensor:
    # The sequence of tokens is written in this order, which a convolution's output is not in.
    patches: Tensor = embedding.proj(images)
    return patches.flatten(2).transpose(1, 2).contiguous()
