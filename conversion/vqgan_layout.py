"""The MaskGIT-VQGAN's original layout: its sizes from its shapes, and where its tensors go.

The pixel decoder goes into `stellar.tokenizer.`, the encoder half, which only pretraining needs, into
`tokenizer_encoder.`. Within each half the names are the same, the codebook's aside.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder
from torch import Tensor

DECODER_TARGET = "stellar.tokenizer"
ENCODER_TARGET = "tokenizer_encoder"


def tokenizer_sizes(vqgan: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `StellarConfig` fields that follow from a tokenizer's shapes.

    Raises:
        ValueError: if a tensor the sizes are read from is missing, which is named.
    """
    try:
        base = vqgan["encoder.conv_in.weight"].shape[0]
        codebook_size, embed_dim = vqgan["quantize.embedding.weight"].shape
        levels = 1 + max_index(vqgan, r"encoder\.down\.(\d+)\.")
        blocks = 1 + max_index(vqgan, r"encoder\.down\.0\.block\.(\d+)\.")
        widths = [vqgan[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    except KeyError as error:
        raise ValueError(f"the tokenizer's weights lack {error.args[0]}: is this a MaskGIT-VQGAN?") from error
    return {
        "codebook_size": codebook_size,
        "tokenizer_embed_dim": embed_dim,
        "tokenizer_hidden_channels": base,
        "tokenizer_channel_mult": [width // base for width in widths],
        "tokenizer_num_res_blocks": blocks,
    }


def max_index(names: Mapping[str, Tensor], pattern: str) -> int:
    """The highest number that `pattern` finds at the start of a name; -1 where none matches."""
    return max((int(match[1]) for match in map(re.compile(pattern).match, names) if match), default=-1)


def vqgan_sources(config: StellarConfig, prefix: str) -> dict[str, list[str]]:
    """The table of the tokenizer's tensors; originals under `prefix`."""
    with torch.device("meta"):
        decoder_names = MaskGitVQGANDecoder(config).state_dict()
        encoder_names = MaskGitVQGANEncoder(config).state_dict()
    table = {
        f"{DECODER_TARGET}.{name}": [f"{prefix}decoder.{name}"] for name in decoder_names if name != "codebook.weight"
    }
    table[f"{DECODER_TARGET}.codebook.weight"] = [f"{prefix}quantize.embedding.weight"]
    return table | {f"{ENCODER_TARGET}.{name}": [f"{prefix}encoder.{name}"] for name in encoder_names}
