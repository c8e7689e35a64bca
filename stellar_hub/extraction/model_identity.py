"""What a model and an image processor are, told by content: the same features come of the same identity only."""

import os
from typing import Any

from stellar_hub.extraction.store.manifest import sha256_of_json
from stellar_hub.extraction.tensor_digest import tensors_sha256
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
    weights = model.state_dict()
    return tensors_sha256({name: weights[name] for name in weights if name.startswith(FEATURE_PARTS)})


def describe_preprocessing(processor: StellarImageProcessor) -> dict[str, Any]:
    """The settings that decide what the model sees of a picture, and the SHA-256 of them."""
    settings = {name: getattr(processor, name) for name in SETTINGS}
    settings["shortest_edge"] = int(processor.size["shortest_edge"])
    settings["crop_size"] = [int(processor.crop_size["height"]), int(processor.crop_size["width"])]
    return {"id": sha256_of_json(settings), "settings": settings}
