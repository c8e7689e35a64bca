"""Where each tensor of an original ViT (transformers' `ViTModel`) goes in timm's."""

from torch import Tensor

LAYER_NAMES = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
QUERY_KEY_VALUE = ("query", "key", "value")


def layer_sources(source: str, target: str, num_layers: int) -> dict[str, list[str]]:
    """For each tensor of timm's blocks under `target`, the originals under `source` it is made of.

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
    """The same for a whole encoder: embeddings, sparse tokens, blocks, norm."""
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
    """Number of layers under `source`: one more than the highest index."""
    prefix = f"{source}.encoder.layer."
    indices = {name.removeprefix(prefix).split(".")[0] for name in state_dict if name.startswith(prefix)}
    return 1 + max((int(index) for index in indices if index.isdigit()), default=-1)
