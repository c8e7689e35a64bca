"""The table of an original checkpoint: which of its tensors make up each tensor of this library."""

from collections.abc import Iterable

from stellar_hub.conversion.vit_layout import encoder_sources, layer_sources
from stellar_hub.conversion.vqgan_layout import vqgan_sources
from stellar_hub.modeling import StellarConfig

TOKENIZER_PREFIX = "tokenizer."
# Of a decoder beside its ViT, which is `decoder.`; without that ViT there is nothing to use them for.
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
    """Whether a checkpoint with these tensors has a decoder; without `decoder.*` it is one of features only."""
    return any(name.startswith("decoder.") for name in names)


def is_unused(name: str, config: StellarConfig) -> bool:
    """Whether a tensor is among those known to be unused.

    These are ViT poolers, the decoder's own embeddings and, in a model without a decoder, what belongs to one.
    """
    return name.startswith(UNUSED_PREFIXES) or (not config.use_decoder and name.startswith(DECODER_PARTS))


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


def all_sources(config: StellarConfig, present: set[str]) -> dict[str, list[str]]:
    """The whole table of a checkpoint.

    Args:
        config: Its configuration.
        present: Names of its tensors; clustering heads are optional and taken as whole groups.
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
