"""The MaskGIT-VQGAN's original layout: its sizes, inferred from its shapes, and the new names of its tensors.

The pixel decoder goes into `stellar.tokenizer.`. The encoder, which only pretraining needs, goes into
`tokenizer_encoder.`. Apart from these prefixes and the codebook, names stay the same.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder
from stellar_hub.modeling.safe_text import one_line


def common_size(tensors: Mapping[str, Tensor], *places: tuple[str, int]) -> int:
    """Returns the size that most of some tensors have in a given dimension; of equally frequent sizes the first.

    Args:
        tensors: A state dict. Tensors may be missing or have the wrong shape, which later checks report by name.
        *places: Name of a tensor, and the dimension that has this size.

    Returns:
        The size; 1 if none of the places exists.
    """
    sizes = [tensors[name].shape[dim] for name, dim in places if name in tensors and dim < tensors[name].ndim]
    return Counter(sizes).most_common(1)[0][0] if sizes else 1


DECODER_TARGET = "stellar.tokenizer"
ENCODER_TARGET = "tokenizer_encoder"

FIRST = "encoder.conv_in.weight"
CODEBOOK = "quantize.embedding.weight"


def tokenizer_sizes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Infers the fields of `StellarConfig` from a tokenizer's shapes, except the size of the codebook.

    Args:
        tensors: A state dict with the tokenizer's tensors under `prefix`. Tensors may be missing or have the wrong
            shape, which later checks report by name.
        prefix: Prefix of the tokenizer's names.

    Raises:
        ValueError: if these are not the tensors of a MaskGIT-VQGAN.
    """
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    if not {FIRST, CODEBOOK} & set(names):
        raise ValueError(
            f"the tokenizer's weights are not those of a MaskGIT-VQGAN: it has {FIRST} and {CODEBOOK}, "
            f"got {one_line(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''}"
        )

    def size(*places: tuple[str, int]) -> int:
        return common_size(tensors, *((prefix + name, dim) for name, dim in places))

    base = size((FIRST, 0), ("encoder.down.0.block.0.norm1.bias", 0), ("decoder.norm_out.bias", 0))
    blocks = [f"encoder.down.{level}.block.0" for level in range(1 + max_index(names, r"encoder\.down\.(\d+)\."))]
    widths = [size((f"{b}.conv1.weight", 0), (f"{b}.conv2.weight", 0), (f"{b}.norm2.bias", 0)) for b in blocks]
    return {
        "tokenizer_embed_dim": size((CODEBOOK, 1), ("encoder.conv_out.weight", 0), ("encoder.conv_out.bias", 0)),
        "tokenizer_hidden_channels": base,
        "tokenizer_channel_mult": [max(1, round(width / max(1, base))) for width in widths] or [1],
        "tokenizer_num_res_blocks": max(1, 1 + max_index(names, r"encoder\.down\.0\.block\.(\d+)\.")),
    }


def max_index(names: Iterable[str], pattern: str) -> int:
    """Returns the highest number that `pattern` finds at the start of a name; -1 if no name matches.

    Args:
        names: Names of tensors.
        pattern: Pattern whose first group is the number of a layer, level or block.

    Raises:
        ValueError: if the number is above the limit on layers: all layers up to it would be gone through.
    """
    highest = -1
    for name in names:
        match = re.match(pattern, name, re.ASCII)
        if match:
            number = int(match[1]) if len(match[1]) < 20 else 10**20
            check_limit("config_layers", number + 1, f"the checkpoint with the tensor {one_line(repr(name), 200)}")
            highest = max(highest, number)
    return highest


def vqgan_sources(config: StellarConfig, prefix: str) -> dict[str, list[str]]:
    """Returns the originals under `prefix` of each of the tokenizer's tensors."""
    with torch.device("meta"):
        decoder_names = MaskGitVQGANDecoder(config).state_dict()
        encoder_names = MaskGitVQGANEncoder(config).state_dict()
    table = {
        f"{DECODER_TARGET}.{name}": [f"{prefix}decoder.{name}"] for name in decoder_names if name != "codebook.weight"
    }
    table[f"{DECODER_TARGET}.codebook.weight"] = [prefix + CODEBOOK]
    return table | {f"{ENCODER_TARGET}.{name}": [f"{prefix}encoder.{name}"] for name in encoder_names}
