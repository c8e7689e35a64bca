"""The table of an original checkpoint: which of its tensors make up each tensor of this library."""

from stellar_hub.conversion.vit_layout import encoder_sources, layer_sources
from stellar_hub.conversion.vqgan_layout import vqgan_sources
from stellar_hub.modeling import StellarConfig

UNUSED_PREFIXES = (
    "encoder.pooler.",
    "decoder.pooler.",
    "decoder.embeddings.",
    "teacher_encoder.pooler.",
)

HEADS = {"clustering_head": "clustering_head", "cls_cluster_head": "cls_clustering_head"}
TEACHER_HEADS = {"teacher_head": "teacher.clustering_head", "teacher_cls_head": "teacher.cls_clustering_head"}


def is_unused(name: str) -> bool:
    """Whether a tensor is among those known to be unused: ViT poolers, and the decoder's own embeddings."""
    return name.startswith(UNUSED_PREFIXES)


def base_sources(config: StellarConfig) -> dict[str, list[str]]:
    """The table of what `encode` and `decode` need, the tokenizer aside; targets under `stellar.`."""
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
    """The table of one clustering head: an MLP of two layers and the prototypes."""
    table = {f"{target}.prototypes.weight": [f"{source}.layer.weight"]}
    for original, ours in (("predictor.layers.0", "mlp.fc1"), ("predictor.layers.2", "mlp.fc2")):
        for kind in ("weight", "bias"):
            table[f"{target}.{ours}.{kind}"] = [f"{source}.{original}.{kind}"]
    return table


def all_sources(config: StellarConfig, present: set[str], vqgan_prefix: str | None) -> dict[str, list[str]]:
    """The whole table of a checkpoint.

    Args:
        config: Its configuration.
        present: Names of its tensors; heads and teacher are optional and taken as whole groups.
        vqgan_prefix: Prefix of the tokenizer's tensors, None where there are none.
    """
    table = base_sources(config)
    if config.teacher_momentum is not None:
        table |= encoder_sources(
            "teacher_encoder", "teacher.encoder", config.num_hidden_layers, "teacher_sparse_tokens"
        )
    for source, target in (HEADS | TEACHER_HEADS).items():
        if any(name.startswith(f"{source}.") for name in present):
            table |= head_sources(source, target)
    if vqgan_prefix is not None:
        table |= vqgan_sources(config, vqgan_prefix)
    return table
