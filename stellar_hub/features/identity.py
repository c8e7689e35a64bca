"""Models and image processors: loading them for a command, and their identity by content.

The same features come from the same identity only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.registry import MODELS, published

_FEATURE_PARTS = ("encoder.", "localization.")  # features do not depend on decoder and tokenizer
DECODER = "decoder"  # setting of a preprocessing that Pillow does not decode for
PILLOW = "pillow"
_SETTINGS = ("fit", "patch_size", "fill_value", "do_resize", "do_center_crop")


def choose_device(device: str) -> str:
    """Returns the device with this name; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ValueError: if the device is not available.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'the device {device!r} is not available ({reason}); use "cpu" or "auto"') from error
    return device


def load_model(
    name: str,
    device: str,
    fit: str = "crop",
    decoder: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[StellarModel, StellarImageProcessor]:
    """Loads a model in evaluation mode and the processor that belongs to it.

    Args:
        name: Published name, folder, Hub repository or file of the model.
        device: Device of the model, or "auto".
        fit: How the processor fits images to the model's size: "crop", "aspect" or "pad".
        decoder: False does not read decoder and tokenizer.
        image_size: Side of a square, or height and width, of the images that the model sees. None keeps the size of
            the processor.

    Raises:
        OSError: if the model does not exist.
        ValueError: if the device is not available, the weights do not fit, or the patch size does not divide the size.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = choose_device(device)
    model = StellarModel.from_pretrained(name, decoder=decoder).to(target)
    size = {} if image_size is None else {"image_size": image_size}
    return model, load_processor(name, model, fit=fit, **size)


def load_processor(name: str, model: StellarModel, **options: Any) -> StellarImageProcessor:
    """Loads the processor that belongs to a model; a file of an original checkpoint brings none.

    Args:
        name: Published name, folder, Hub repository or file that the model came from.
        model: The model.
        **options: Settings of the processor that replace its own.
    """
    if Path(name).is_file():
        return StellarImageProcessor.from_config(model.config, **options)
    return StellarImageProcessor.from_pretrained(name, **options)


def sha256_of_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of tensors: names, dtypes, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_hash(network: nn.Module) -> str:
    """Returns the SHA-256 of all parameters and persistent buffers of a network."""
    return tensors_sha256(network.state_dict())


def weights_sha256(model: StellarModel) -> str:
    """Returns the SHA-256 of the weights that a STELLAR model's features depend on; the decoder is not among them."""
    weights = model.state_dict()
    return tensors_sha256({name: weights[name] for name in weights if name.startswith(_FEATURE_PARTS)})


def describe_model(model: StellarModel) -> dict[str, Any]:
    """Returns the name, the revision, the SHA-256 and the dtype of a STELLAR model's weights."""
    name = str(model.config.name_or_path)
    known = published(name)
    return {
        "name": os.path.abspath(name) if name not in MODELS and os.path.exists(name) else name,
        "revision": known.file.revision if known and known.file else getattr(model.config, "_commit_hash", None),
        "weights_sha256": weights_sha256(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def describe_preprocessing(processor: StellarImageProcessor) -> dict[str, Any]:
    """Returns the settings that decide which pixels a STELLAR model sees, and their SHA-256 as "id"."""
    settings = {name: getattr(processor, name) for name in _SETTINGS}
    if processor.apply_icc_profile:  # earlier releases did not apply them, and did not have the setting
        settings["apply_icc_profile"] = True
    settings["shortest_edge"] = int(processor.size["shortest_edge"])
    settings["crop_size"] = [int(processor.crop_size["height"]), int(processor.crop_size["width"])]
    return {"id": sha256_of_json(settings), "settings": settings}


def with_decoder(preprocessing: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    """Returns the description of a preprocessing with a decoder. Pillow is not named, so that ids stay as they were."""
    settings = {name: value for name, value in preprocessing["settings"].items() if name != DECODER}
    if decoder == PILLOW:
        return {**preprocessing, "settings": settings}
    settings[DECODER] = decoder
    return {"id": sha256_of_json(settings), "settings": settings}
