"""Starting from another ViT: which of timm's models fit the encoder, and how their weights go into it."""

import os
from collections.abc import Callable
from typing import Any

import timm
import torch
from huggingface_hub.errors import HTTPError
from timm.layers import LayerScale, Mlp
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from .encoder_stellar import IMAGENET_MEAN, IMAGENET_STD
from .safe_text import did_you_mean, one_line
from .weight_files import listed

_SEED = 20260205  # one that nobody draws weights with


def load_backbone(name: str, pretrained: bool | str | os.PathLike) -> VisionTransformer:
    """Builds a model of timm and checks that it is a plain ViT.

    Args:
        name: timm's name of the model, such as "vit_base_patch16_224.mae".
        pretrained: True fetches the weights as timm does, a path loads them from a file, False leaves them random.

    Raises:
        FileNotFoundError: if the path does not exist.
        OSError: if the weights cannot be fetched.
        TypeError: if the name is not a string.
        ValueError: if timm does not know the name, a file does not hold the weights, or the encoder cannot represent
            the model; it says why.
    """
    name = checked_name(name)
    if isinstance(pretrained, bool):
        backbone = _create(name, pretrained)
    elif isinstance(pretrained, str | os.PathLike):
        backbone = _create_from_file(name, pretrained)
    else:
        raise TypeError(f"pretrained must be True, False or a path, got {type(pretrained).__name__}")
    obstacles = unsupported_parts(backbone)
    if obstacles:
        raise ValueError(f"{name} cannot become a STELLAR encoder, which is a plain ViT: it has {', '.join(obstacles)}")
    return backbone


def _create(name: str, pretrained: bool) -> Any:
    """Builds a model of timm; an error says which weights could not be fetched, and what to pass instead."""
    try:
        return timm.create_model(name, num_classes=0, pretrained=pretrained)
    except (OSError, HTTPError) as error:
        raise OSError(
            f"the weights of {one_line(repr(name), 200)} could not be loaded ({one_line(error, 200)}): without a "
            "network, pass pretrained=PATH, a file of these weights, or pretrained=False for random ones"
        ) from error


def _create_from_file(name: str, path: str | os.PathLike) -> Any:
    """Builds a model of timm with the weights of a file.

    timm passes over tensors that a file does not have. They are found by the seed: they are equal in both models.
    """
    shown = one_line(repr(name), 200)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {one_line(path)}; pretrained= names a file with weights of {shown}")
    # Without `custom_load`, timm 1.0.29 reads the file of a name whose own weights are in JAX's format as such weights.
    overlay = {"file": os.fspath(path), "custom_load": False}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            untrained = timm.create_model(name, num_classes=0)
            torch.manual_seed(_SEED)
            backbone = timm.create_model(name, num_classes=0, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # torch raises almost any error for a damaged file; some advise to load it unsafely
        detail = f": {one_line(error, 300)}" if "size mismatch" in str(error) else ""
        raise ValueError(f"{one_line(path)} is damaged, or does not hold weights of {shown}{detail}") from error
    initial = untrained.state_dict()
    drawn = {key: tensor for key, tensor in initial.items() if tensor.numel() > 1 and tensor.std() > 0}
    state = backbone.state_dict()
    missing = [key for key, tensor in drawn.items() if torch.equal(tensor, state[key])]
    if missing:
        raise ValueError(f"{one_line(path)} does not hold weights of {shown}; missing: {listed(missing)}")
    return backbone


def checked_name(name: Any) -> str:
    """Returns timm's name of a model, without "timm:" before it.

    Raises:
        TypeError: if it is not a string, such as a model itself.
        ValueError: if timm does not have the model or the weights; it says which names are similar.
    """
    if not isinstance(name, str):
        hint = ": save its weights with torch.save(module.state_dict(), PATH), and pass its name and pretrained=PATH"
        raise TypeError(
            "name must be timm's name of a model, such as 'vit_base_patch16_224.mae', got "
            f"{type(name).__name__}{hint if isinstance(name, nn.Module) else ''}"
        )
    name = name.removeprefix("timm:")
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return name
    architecture, _, tag = name.partition(".")
    shown = one_line(repr(name), 200)
    if "/" in name or not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise ValueError(f"timm {timm.__version__} does not have a model {shown}{hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"; it has {', '.join(f'{architecture}.{item}' for item in tags)}" if tags else ""
        raise ValueError(f"timm {timm.__version__} does not have the weights {shown}{known}")
    return name


def unsupported_parts(backbone: Any) -> list[str]:
    """Returns, in words, the parts of a model that the encoder cannot represent; empty for a model that fits."""
    if type(backbone) is not VisionTransformer:
        kinds = {"Eva": "rotary position embeddings", "Swin": "attention in windows"}
        kind = next((what for start, what in kinds.items() if type(backbone).__name__.startswith(start)), None)
        return [f"another architecture ({type(backbone).__name__}{', ' + kind if kind else ''})"]
    checks: dict[str, Callable[[VisionTransformer], bool]] = {
        "no cls token": lambda vit: vit.cls_token is None,
        "register tokens": lambda vit: vit.reg_token is not None,
        "no learned position embeddings": lambda vit: vit.pos_embed is None,
        "position embeddings that leave out cls": lambda vit: vit.no_embed_class,
        "a norm before the blocks": lambda vit: not isinstance(vit.norm_pre, nn.Identity),
        "no final norm": lambda vit: not isinstance(vit.norm, nn.LayerNorm),
        "patches that are not square": lambda vit: len(set(vit.patch_embed.patch_size)) > 1,
        "a grid that is not square": lambda vit: len(set(vit.patch_embed.grid_size)) > 1,
        "a norm in the patch embedding": lambda vit: not isinstance(vit.patch_embed.norm, nn.Identity),
        "a patch embedding without bias": lambda vit: vit.patch_embed.proj.bias is None,
        "not 3 input channels": lambda vit: vit.patch_embed.proj.in_channels != len(IMAGENET_MEAN),
        "no blocks": lambda vit: len(vit.blocks) == 0,
    }
    parts = [part for part, holds in checks.items() if holds(backbone)]
    if len(backbone.blocks):
        parts += unsupported_block_parts(backbone.blocks[0])  # all blocks of a ViT are alike
    return parts


def unsupported_block_parts(block: Any) -> list[str]:
    """Returns, in words, the parts of a block that the encoder cannot represent."""
    if type(block) is not Block or type(block.attn) is not Attention:
        return [f"other blocks ({type(block).__name__})"]
    checks = {
        "a gated or otherwise different MLP": type(block.mlp) is not Mlp,
        "an activation other than exact GELU": getattr(getattr(block.mlp, "act", None), "approximate", "") != "none",
        "norms inside attention or MLP": any(
            not isinstance(module, nn.Identity)
            for module in (block.attn.q_norm, block.attn.norm, getattr(block.mlp, "norm", nn.Identity()))
        ),
        "gated attention": getattr(block.attn, "gate", None) is not None,
        "queries, keys and values without bias": block.attn.qkv.bias is None,
        "norms other than LayerNorm": not isinstance(block.norm1, nn.LayerNorm),
    }
    return [part for part, holds in checks.items() if holds]


def backbone_fields(backbone: VisionTransformer) -> dict[str, Any]:
    """Returns the fields of `StellarConfig` that describe a plain ViT."""
    block: Any = backbone.blocks[0]
    side = backbone.patch_embed.patch_size[0]
    scale = block.ls1.gamma if isinstance(block.ls1, LayerScale) else None
    return {
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "patch_size": side,
        "image_size": backbone.patch_embed.grid_size[0] * side,
        "layer_norm_eps": block.norm1.eps,
        "layer_scale_init_value": None if scale is None else float(scale.detach().flatten()[0]),
    }


def backbone_weights(backbone: VisionTransformer) -> dict[str, Tensor]:
    """Returns the state dict of a plain ViT for the encoder, whose input is ImageNet-normalized.

    Some backbones were trained with another mean and standard deviation. The difference is an affine map per channel,
    which the patch projection absorbs exactly: such a backbone still sees the pixels it was trained on.
    """
    weights = {name: tensor.detach().clone() for name, tensor in backbone.state_dict().items()}
    trained_with: dict[str, Any] = dict(backbone.pretrained_cfg)  # type: ignore[arg-type]  # timm sets it on the module
    mean, std = trained_with.get("mean"), trained_with.get("std")
    kernel, bias = "patch_embed.proj.weight", "patch_embed.proj.bias"
    if mean and std and (tuple(mean), tuple(std)) != (IMAGENET_MEAN, IMAGENET_STD):
        weights[kernel], weights[bias] = fold_normalization(weights[kernel], weights[bias], mean, std)
    return weights


def fold_normalization(kernel: Tensor, bias: Tensor, mean: Any, std: Any) -> tuple[Tensor, Tensor]:
    """Rewrites a patch projection for ImageNet-normalized pixels.

    Args:
        kernel: Weight for pixels normalized with `mean` and `std`, `(d, 3, p, p)`.
        bias: Bias for such pixels, `(d,)`.
        mean: Mean of each channel that the backbone was trained with.
        std: Standard deviation of each channel that the backbone was trained with.

    Returns:
        Weight and bias for ImageNet-normalized pixels.
    """
    mean, std, our_mean, our_std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std, IMAGENET_MEAN, IMAGENET_STD)
    )
    wide = kernel.double()
    shifted = bias.double() + (wide * ((our_mean - mean) / std)).sum(dim=(1, 2, 3))
    return (wide * (our_std / std)).to(kernel.dtype), shifted.to(bias.dtype)
