"""Spelling of tensor names in the wild, brought to the one spelling of the published files."""

import re
from collections.abc import Mapping

from torch import Tensor

WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module)(?=\.)")

# transformers >= 5 renamed its ViT in memory, and checkpoints saved by hand from there carry the newer names.
NEWER_VIT_NAMES = (
    (re.compile(r"^((?:teacher_)?encoder|decoder)\.(?:encoder\.)?layers\.(\d+)\."), r"\1.encoder.layer.\2."),
    (re.compile(r"\.attention\.q_proj\."), ".attention.attention.query."),
    (re.compile(r"\.attention\.k_proj\."), ".attention.attention.key."),
    (re.compile(r"\.attention\.v_proj\."), ".attention.attention.value."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.output.dense."),
    (re.compile(r"(\.layer\.\d+)\.mlp\.fc1\."), r"\1.intermediate.dense."),
    (re.compile(r"(\.layer\.\d+)\.mlp\.fc2\."), r"\1.output.dense."),
)


def published_name(name: str) -> str:
    """The published spelling of a tensor's name: without wrappers' prefixes, with the older ViT names."""
    name = WRAPPERS.sub("", name).removeprefix(".").removeprefix("model.")
    if name.startswith("tokenizer."):
        return name
    for pattern, replacement in NEWER_VIT_NAMES:
        name = pattern.sub(replacement, name)
    return name


def with_published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors under their published names.

    Raises:
        ValueError: if two tensors would get the same name.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        target = published_name(name)
        if target in renamed:
            raise ValueError(f"{name!r} and {origin[target]!r} are both {target!r}: the checkpoint holds it twice")
        renamed[target], origin[target] = tensor, name
    return renamed
