"""From a store's `S` and `L` back to pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from stellar_hub.extraction.model_identity import weights_sha256
from stellar_hub.extraction.store.manifest import Manifest
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.localization_maps import to_pil

if TYPE_CHECKING:
    from stellar_hub.extraction.store.feature_store import FeatureStore


def load_model_of(manifest: Manifest) -> StellarModel:
    """The model that made a store, by its name; whether it is still the same is seen when it decodes.

    Raises:
        OSError: if there is no such model any more.
    """
    known = manifest.model
    return StellarModel.from_pretrained(known["name"], revision=known["revision"], dtype=getattr(torch, known["dtype"]))


def decode_rows(store: "FeatureStore", rows: Sequence[int], model: StellarModel) -> list[Image.Image]:
    """Pictures of some rows.

    Raises:
        ValueError: if the store lacks `S` or `L`, or the model is another one.
    """
    if not {"S", "L"} <= set(store.outputs):
        raise ValueError(f"{store.path} cannot be decoded: it holds {', '.join(store.outputs)}, not S and L")
    if weights_sha256(model) != store.manifest.model["weights_sha256"]:
        raise ValueError(f"{store.path} was made by another model, {store.manifest.model['name']}: its weights differ")
    semantics, localization = (store.read(name, rows).to(model.device, model.dtype) for name in ("S", "L"))
    with torch.inference_mode():
        images = model.decode(semantics, localization, grid_size=tuple(store.manifest.features["grid_size"]))
    return [to_pil(image) for image in images.float().cpu()]
