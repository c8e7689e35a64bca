"""The configuration of an original checkpoint, read off its shapes."""

import math
from typing import Any

from stellar_hub.conversion.vit_layout import count_layers
from stellar_hub.conversion.vqgan_layout import tokenizer_sizes
from stellar_hub.modeling import StellarConfig
from torch import Tensor

# Shapes do not tell the number of heads; these are the conventions of the published models.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 8}
TEACHER_MOMENTUM = 0.996


def infer_config(
    state_dict: dict[str, Tensor],
    vqgan: dict[str, Tensor] | None,
    num_attention_heads: int | None,
    decoder_num_attention_heads: int | None,
) -> StellarConfig:
    """Configuration of a checkpoint with published names.

    Args:
        state_dict: The checkpoint's tensors, on any device.
        vqgan: The tokenizer's tensors, None where there are none.
        num_attention_heads: Heads of the encoder; None for the convention of its width.
        decoder_num_attention_heads: Heads of the decoder; None for the convention of its width.

    Raises:
        ValueError: if a tensor the sizes follow from is missing or of another rank (it is named), or the number of
            heads is neither given nor known.
    """
    num_tokens, hidden_size = shape_of(state_dict, "sparse_tokens", 2)
    patch_size = shape_of(state_dict, "encoder.embeddings.patch_embeddings.projection.weight", 4)[-1]
    num_positions = shape_of(state_dict, "encoder.embeddings.position_embeddings", 3)[1]
    fields: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_sparse_tokens": num_tokens,
        "num_hidden_layers": count_layers(state_dict, "encoder"),
        "intermediate_size": shape_of(state_dict, "encoder.encoder.layer.0.intermediate.dense.weight", 2)[0],
        "num_attention_heads": heads(num_attention_heads, hidden_size, ENCODER_HEADS, "num_attention_heads"),
        "patch_size": patch_size,
        "image_size": math.isqrt(num_positions - 1) * patch_size,
    }
    fields |= decoder_fields(state_dict, decoder_num_attention_heads)
    fields["use_tokenizer"] = vqgan is not None and fields.get("reconstruction_head") == "vq"
    if vqgan is not None:
        fields |= tokenizer_sizes(vqgan)
    if "clustering_head.layer.weight" in state_dict:
        fields["num_prototypes"], fields["prototype_dim"] = shape_of(state_dict, "clustering_head.layer.weight", 2)
        fields["prototype_hidden_size"] = shape_of(state_dict, "clustering_head.predictor.layers.0.weight", 2)[0]
    if any(name.startswith("teacher_") for name in state_dict):
        fields["teacher_momentum"] = TEACHER_MOMENTUM
    return StellarConfig(**fields)


def decoder_fields(state_dict: dict[str, Tensor], num_attention_heads: int | None) -> dict[str, Any]:
    """The decoder's fields; `use_decoder=False` where the file has none (features only)."""
    if not any(name.startswith(("decoder.", "decoder_proj.", "reconstruction_head.")) for name in state_dict):
        return {"use_decoder": False}
    width = shape_of(state_dict, "decoder_proj.weight", 2)[0]
    num_layers = count_layers(state_dict, "decoder")
    head = required(state_dict, "reconstruction_head.weight")
    fields: dict[str, Any] = {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": num_layers,
        "decoder_num_attention_heads": heads(num_attention_heads, width, DECODER_HEADS, "decoder_num_attention_heads"),
        "reconstruction_head": "pixel" if head.ndim == 4 else "vq",
    }
    if num_layers:
        first = "decoder.encoder.layer.0.intermediate.dense.weight"
        fields["decoder_intermediate_size"] = shape_of(state_dict, first, 2)[0]
    if head.ndim == 2:
        fields["codebook_size"] = head.shape[0]
    return fields


def required(state_dict: dict[str, Tensor], name: str) -> Tensor:
    """A tensor that has to be there."""
    if name not in state_dict:
        raise ValueError(f"the checkpoint lacks the tensor {name}: it is cut short, or not a STELLAR checkpoint")
    return state_dict[name]


def shape_of(state_dict: dict[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that has to be there with this rank."""
    shape = tuple(required(state_dict, name).shape)
    if len(shape) != rank:
        raise ValueError(f"the tensor {name} has shape {shape}, but must have {rank} dimensions")
    return shape


def heads(given: int | None, width: int, known: dict[int, int], argument: str) -> int:
    """The number of attention heads given, else the convention of this width."""
    if given is not None:
        return given
    if width not in known:
        raise ValueError(
            f"the number of attention heads does not follow from the shapes, and a width of {width} is not among "
            f"the known ones ({', '.join(map(str, known))}): pass {argument}="
        )
    return known[width]
