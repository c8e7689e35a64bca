"""What a model and an image processor are, told by content: the same features come of the same identity only."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.registry import MODELS, published


def sha256_of_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, in the order of names; wherever the tensors are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and persistent buffers, in the order of names."""
    return tensors_sha256(network.state_dict())


FEATURE_PARTS = ("encoder.", "localization.")  # what is decoded with does not change features
SETTINGS = ("fit", "patch_size", "fill_value", "do_resize", "do_center_crop")


def describe_model(model: StellarModel) -> dict[str, Any]:
    """Name, revision, SHA-256 and dtype of a model's weights."""
    name = str(model.config.name_or_path)
    known = published(name)
    return {
        "name": os.path.abspath(name) if name not in MODELS and os.path.exists(name) else name,
        "revision": known.file.revision if known and known.file else getattr(model.config, "_commit_hash", None),
        "weights_sha256": weights_sha256(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def weights_sha256(model: StellarModel) -> str:
    """SHA-256 over names, dtypes, shapes and values of the weights that features come from."""
    weights = model.state_dict()
    return tensors_sha256({name: weights[name] for name in weights if name.startswith(FEATURE_PARTS)})


def describe_preprocessing(processor: StellarImageProcessor) -> dict[str, Any]:
    """The settings that decide what the model sees of an image, and the SHA-256 of them."""
    settings = {name: getattr(processor, name) for name in SETTINGS}
    settings["shortest_edge"] = int(processor.size["shortest_edge"])
    settings["crop_size"] = [int(processor.crop_size["height"]), int(processor.crop_size["width"])]
    return {"id": sha256_of_json(settings), "settings": settings}
