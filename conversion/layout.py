"""The original layout: a table that says which original tensors become each tensor of this library."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from stellar_hub.conversion.vqgan_layout import max_index, vqgan_sources
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.safe_text import one_line

LAYER_NAMES = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
QUERY_KEY_VALUE = ("query", "key", "value")


def layer_sources(source: str, target: str, num_layers: int) -> dict[str, list[str]]:
    """Returns, for each tensor of timm's blocks and norm under `target`, its originals under `source`.

    Query, key and value are three tensors in the original and one, in this order, in timm.
    """
    table: dict[str, list[str]] = {}
    for index in range(num_layers):
        layer, block = f"{source}.encoder.layer.{index}", f"{target}.blocks.{index}"
        for kind in ("weight", "bias"):
            table[f"{block}.attn.qkv.{kind}"] = [f"{layer}.attention.attention.{n}.{kind}" for n in QUERY_KEY_VALUE]
            for original, ours in LAYER_NAMES.items():
                table[f"{block}.{ours}.{kind}"] = [f"{layer}.{original}.{kind}"]
    for kind in ("weight", "bias"):
        table[f"{target}.norm.{kind}"] = [f"{source}.layernorm.{kind}"]
    return table


def encoder_sources(source: str, target: str, num_layers: int, sparse_tokens: str) -> dict[str, list[str]]:
    """Returns, for each tensor of an encoder under `target`, its originals under `source`.

    Args:
        source: Prefix of the original ViT.
        target: Prefix of this library's encoder.
        num_layers: Number of blocks.
        sparse_tokens: Original name of the sparse tokens, which are beside the ViT.
    """
    embeddings = f"{source}.embeddings"
    return {
        f"{target}.cls_token": [f"{embeddings}.cls_token"],
        f"{target}.pos_embed": [f"{embeddings}.position_embeddings"],
        f"{target}.patch_embed.proj.weight": [f"{embeddings}.patch_embeddings.projection.weight"],
        f"{target}.patch_embed.proj.bias": [f"{embeddings}.patch_embeddings.projection.bias"],
        f"{target}.sparse_tokens": [sparse_tokens],
        **layer_sources(source, target, num_layers),
    }


def count_layers(state_dict: dict[str, Tensor], source: str) -> int:
    """Returns the number of layers under `source`: one more than the highest index.

    Raises:
        ValueError: if it is above the limit on layers.
    """
    return 1 + max_index(state_dict, rf"{re.escape(source)}\.encoder\.layer\.(\d+)\.")


WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module)(?=\.)")

# transformers >= 5 renamed its ViT in memory, and checkpoints that users saved from there have the newer names.
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
    """Returns the published name of a tensor: without the prefixes of wrappers, and with the older ViT names."""
    name = WRAPPERS.sub("", name).removeprefix(".").removeprefix("model.")
    if name.startswith("tokenizer."):
        return name
    for pattern, replacement in NEWER_VIT_NAMES:
        name = pattern.sub(replacement, name)
    return name


def with_published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns all tensors under their published names.

    Raises:
        ValueError: if two tensors would get the same name.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in state_dict.items():
        target = published_name(name)
        if target in renamed:
            raise ValueError(
                f"the checkpoint has {one_line(repr(target), 200)} twice, as {one_line(repr(name), 200)} and as "
                f"{one_line(repr(origin[target]), 200)}"
            )
        renamed[target], origin[target] = tensor, name
    return renamed


TOKENIZER_PREFIX = "tokenizer."
# A decoder has these beside its ViT, which is under `decoder.`. Without that ViT nothing uses them.
DECODER_PARTS = ("decoder_proj.", "position_embedding.", "reconstruction_head.")

UNUSED_PREFIXES = (
    "encoder.pooler.",
    "decoder.pooler.",
    "decoder.embeddings.",
    "teacher_encoder.pooler.",
)

HEADS = {"clustering_head": "clustering_head", "cls_cluster_head": "cls_clustering_head"}
TEACHER_HEADS = {"teacher_head": "teacher.clustering_head", "teacher_cls_head": "teacher.cls_clustering_head"}


def has_decoder(names: Iterable[str]) -> bool:
    """Returns whether a checkpoint with tensors of these names has a decoder: its ViT is under `decoder.`."""
    return any(name.startswith("decoder.") for name in names)


def is_unused(name: str, config: StellarConfig) -> bool:
    """Returns whether a tensor is known to be unused.

    Unused are the ViTs' poolers, the decoder's own embeddings and, in a model without a decoder, all of its parts.
    """
    return name.startswith(UNUSED_PREFIXES) or (not config.use_decoder and name.startswith(DECODER_PARTS))


def base_sources(config: StellarConfig) -> dict[str, list[str]]:
    """Returns the table of the tensors that `encode` and `decode` need, without the tokenizer, under `stellar.`."""
    table = encoder_sources("encoder", "stellar.encoder", config.num_hidden_layers, "sparse_tokens")
    pairs = {"dense_proj": "localization.dense_proj", "sparse_proj": "localization.sparse_proj"}
    if config.use_decoder:
        table |= layer_sources("decoder", "stellar.decoder", config.decoder_num_hidden_layers)
        table["stellar.decoder.position_code.frequencies"] = ["position_embedding.positional_encoding_gaussian_matrix"]
        pairs |= {"decoder_proj": "decoder.proj", "reconstruction_head": "decoder.head"}
    for source, target in pairs.items():
        for kind in ("weight", "bias"):
            table[f"stellar.{target}.{kind}"] = [f"{source}.{kind}"]
    return table


def head_sources(source: str, target: str) -> dict[str, list[str]]:
    """Returns the table of one clustering head: an MLP of two layers and the prototypes."""
    table = {f"{target}.prototypes.weight": [f"{source}.layer.weight"]}
    for original, ours in (("predictor.layers.0", "mlp.fc1"), ("predictor.layers.2", "mlp.fc2")):
        for kind in ("weight", "bias"):
            table[f"{target}.{ours}.{kind}"] = [f"{source}.{original}.{kind}"]
    return table


def all_sources(config: StellarConfig, present: set[str]) -> dict[str, list[str]]:
    """Returns the whole table of a checkpoint.

    Args:
        config: The checkpoint's configuration.
        present: Names of the checkpoint's tensors. A clustering head is in the table if one of its tensors is present.
    """
    table = base_sources(config)
    if config.teacher_momentum is not None:
        table |= encoder_sources(
            "teacher_encoder", "teacher.encoder", config.num_hidden_layers, "teacher_sparse_tokens"
        )
    for source, target in (HEADS | TEACHER_HEADS).items():
        if any(name.startswith(f"{source}.") for name in present):
            table |= head_sources(source, target)
    if config.use_tokenizer:
        table |= vqgan_sources(config, TOKENIZER_PREFIX)
    return table
