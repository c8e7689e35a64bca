"""The configuration of an original checkpoint, inferred from the shapes of its tensors."""

import math
from itertools import islice
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from stellar_hub.conversion.layout import HEADS, TEACHER_HEADS, TOKENIZER_PREFIX, count_layers, has_decoder
from stellar_hub.conversion.vqgan_layout import CODEBOOK, common_size, tokenizer_sizes
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.safe_text import one_line

# Width to number of attention heads, which shapes do not show: the conventions of the published models.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 8}
TEACHER_MOMENTUM = 0.996

SPARSE_TOKENS = "sparse_tokens"
OWN_TOKENS = {"encoder.sparse_tokens", "stellar.encoder.sparse_tokens"}  # in the layout of this library
CLS_TOKEN = "encoder.embeddings.cls_token"
POSITIONS = "encoder.embeddings.position_embeddings"
PATCH_PROJECTION = "encoder.embeddings.patch_embeddings.projection.weight"
HEAD = "reconstruction_head.weight"


def infer_config(
    state_dict: dict[str, Tensor],
    num_attention_heads: int | None,
    decoder_num_attention_heads: int | None,
) -> StellarConfig:
    """Infers the configuration of a checkpoint with published names.

    Most sizes are read from several tensors. Tensors that are missing or have the wrong shape are not reported here:
    the later check of all tensors names them.

    Args:
        state_dict: The checkpoint's tensors, on any device, with the tokenizer's, if any, under `tokenizer.`.
        num_attention_heads: Number of attention heads of the encoder; None means the convention for its width.
        decoder_num_attention_heads: Number of attention heads of the decoder; None means the convention for its width.

    Raises:
        ValueError: if these are not the tensors of a STELLAR model, their sizes do not fit each other, or the number
            of heads is neither given nor known.
    """
    if not {SPARSE_TOKENS, CLS_TOKEN, PATCH_PROJECTION} & state_dict.keys():
        if OWN_TOKENS & state_dict.keys():
            raise ValueError(
                "these tensors need no conversion, because this library wrote them: load the folder that the file is "
                "in, which has a config.json, with StellarModel.from_pretrained(FOLDER)"
            )
        found = one_line(", ".join(islice(state_dict, 3)))
        raise ValueError(
            f"these are not the tensors of a STELLAR checkpoint: it has {SPARSE_TOKENS}, {CLS_TOKEN} and "
            f"{PATCH_PROJECTION}, got {found}{', ...' if len(state_dict) > 3 else ''}"
        )
    fields = encoder_fields(state_dict, num_attention_heads)
    fields |= decoder_fields(state_dict, decoder_num_attention_heads)
    fields |= prototype_fields(state_dict)
    has_tokenizer = any(name.startswith(TOKENIZER_PREFIX) for name in state_dict)
    fields["use_tokenizer"] = has_tokenizer and fields.get("reconstruction_head") == "vq"
    if fields["use_tokenizer"]:
        fields |= tokenizer_sizes(state_dict, TOKENIZER_PREFIX)
    if any(name.startswith("teacher_") for name in state_dict):
        fields["teacher_momentum"] = TEACHER_MOMENTUM
    try:
        return StellarConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(
            "the sizes of the checkpoint's tensors and the given heads do not fit each other: "
            f"{one_line(error.__cause__ or error)}"
        ) from error


def encoder_fields(state_dict: dict[str, Tensor], num_attention_heads: int | None) -> dict[str, Any]:
    """Returns the encoder's fields."""
    hidden_size = common_size(state_dict, (SPARSE_TOKENS, 1), (CLS_TOKEN, 2), (PATCH_PROJECTION, 0))
    # A size that only one tensor shows is also read from its EMA copy.
    copy = f"teacher_{PATCH_PROJECTION}"
    patch_size = common_size(state_dict, *((n, d) for n in (PATCH_PROJECTION, HEAD, copy) for d in (2, 3)))
    num_patches = common_size(state_dict, (POSITIONS, 1), (f"teacher_{POSITIONS}", 1)) - 1
    return {
        "hidden_size": hidden_size,
        "num_sparse_tokens": common_size(state_dict, (SPARSE_TOKENS, 0), (f"teacher_{SPARSE_TOKENS}", 0)),
        "num_hidden_layers": max(1, count_layers(state_dict, "encoder")),
        "intermediate_size": mlp_width(state_dict, "encoder"),
        "num_attention_heads": heads(num_attention_heads, hidden_size, ENCODER_HEADS, "num_attention_heads"),
        "patch_size": patch_size,
        "image_size": math.isqrt(max(1, num_patches)) * patch_size,
    }


def decoder_fields(state_dict: dict[str, Tensor], num_attention_heads: int | None) -> dict[str, Any]:
    """Returns the decoder's fields, or `use_decoder=False` if the file has no decoder."""
    if not has_decoder(state_dict):
        return {"use_decoder": False}
    width = common_size(state_dict, ("decoder_proj.weight", 0), ("decoder_proj.bias", 0), ("decoder.layernorm.bias", 0))
    num_layers = count_layers(state_dict, "decoder")
    fields: dict[str, Any] = {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": num_layers,
        "decoder_num_attention_heads": heads(num_attention_heads, width, DECODER_HEADS, "decoder_num_attention_heads"),
    }
    if num_layers:
        fields["decoder_intermediate_size"] = mlp_width(state_dict, "decoder")
    if HEAD in state_dict and state_dict[HEAD].ndim == 4:
        return fields | {"reconstruction_head": "pixel"}
    codebook = TOKENIZER_PREFIX + CODEBOOK
    codebook_size = common_size(state_dict, (HEAD, 0), ("reconstruction_head.bias", 0), (codebook, 0))
    return fields | {"reconstruction_head": "vq", "codebook_size": codebook_size}


def mlp_width(state_dict: dict[str, Tensor], source: str) -> int:
    """Returns the width of the MLP in a ViT's first block."""
    layer = f"{source}.encoder.layer.0"
    inner, outer = f"{layer}.intermediate.dense", f"{layer}.output.dense"
    return common_size(state_dict, (f"{inner}.weight", 0), (f"{inner}.bias", 0), (f"{outer}.weight", 1))


def prototype_fields(state_dict: dict[str, Tensor]) -> dict[str, int]:
    """Returns the sizes of the clustering heads; an empty dictionary if the file has no such heads."""
    present = [head for head in HEADS | TEACHER_HEADS if any(name.startswith(f"{head}.") for name in state_dict)]
    if not present:
        return {}
    first, second, prototypes = "predictor.layers.0", "predictor.layers.2", "layer.weight"
    places = {
        "num_prototypes": [(prototypes, 0)],
        "prototype_dim": [(prototypes, 1), (f"{second}.weight", 0), (f"{second}.bias", 0)],
        "prototype_hidden_size": [(f"{first}.weight", 0), (f"{first}.bias", 0), (f"{second}.weight", 1)],
    }
    return {
        field: common_size(state_dict, *((f"{head}.{name}", dim) for head in present for name, dim in where))
        for field, where in places.items()
    }


def heads(given: int | None, width: int, known: dict[int, int], argument: str) -> int:
    """Returns the given number of attention heads, else the convention for this width.

    Args:
        given: Number that the user gave, or None.
        width: Width of the blocks.
        known: Number of heads for each width of the published models.
        argument: Name of the argument for the number, for the error.

    Raises:
        ValueError: if no number is given and the width is not a published one.
    """
    if given is not None:
        return given
    if width not in known:
        raise ValueError(
            f"shapes do not show the number of attention heads, and the width {width} is not one of the published "
            f"widths {', '.join(map(str, known))}: pass {argument}="
        )
    return known[width]
