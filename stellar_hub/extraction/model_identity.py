"""What a model and an image processor are, told by content: the same features come of the same identity only."""

import hashlib
import os
from typing import Any

import numpy as np
import torch

from stellar_hub.extraction.store.manifest import sha256_of_json
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.registry import MODELS, published

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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(FEATURE_PARTS):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(memoryview(np.ascontiguousarray(values)))
    return digest.hexdigest()


def describe_preprocessing(processor: StellarImageProcessor) -> dict[str, Any]:
    """The settings that decide what the model sees of a picture, and the SHA-256 of them."""
    settings = {name: getattr(processor, name) for name in SETTINGS}
    settings["shortest_edge"] = int(processor.size["shortest_edge"])
    settings["crop_size"] = [int(processor.crop_size["height"]), int(processor.crop_size["width"])]
    return {"id": sha256_of_json(settings), "settings": settings}
