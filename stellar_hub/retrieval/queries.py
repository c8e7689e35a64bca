"""What a search may be asked with: vectors, arrays, or images, which a model encodes as the store was made."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.in_memory import extract_features
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store import FeatureStore
from stellar_hub.store.conversions import check_weights

ImageQuery = str | os.PathLike[str]
Queries = Tensor | np.ndarray | ImageQuery | Sequence[ImageQuery]


def as_queries(
    store: FeatureStore, queries: Queries, output: str, model: StellarModel | Backbone | None = None
) -> Tensor:
    """Returns the vectors or sets of tokens that a search compares with a store, `(Q, ...)`.

    Args:
        store: Store to search.
        queries: Features `(Q, ...)` as a tensor or an array; or the path of an image, or a list of paths.
        output: Feature that is compared.
        model: Model that made the store, for images. None takes the one that `store.load_model()` has loaded.

    Raises:
        KeyError: if the store does not hold the output.
        TypeError: if the queries are something else.
        ValueError: if an image cannot be read, no model is known, or it is not the model that made the store.
    """
    store.shape(output)
    if isinstance(queries, Tensor):
        return queries
    if isinstance(queries, np.ndarray) and queries.dtype.kind in "fiu":
        return torch.from_numpy(np.ascontiguousarray(queries)).float()
    images = [queries] if isinstance(queries, str | os.PathLike) else list(queries)
    if not images or not all(isinstance(image, str | os.PathLike) for image in images):
        kinds = ", ".join(sorted({type(image).__name__ for image in images})) or "nothing"
        raise TypeError(f"queries must be a tensor, an array, or paths of images, got {kinds}")
    backbone = backbone_of(store, store.known_model(model, "a search for images"))
    precision = store.manifest.features.get("precision", "float32")
    batches = extract_features(backbone, images, [output], num_workers=0, precision=precision)  # type: ignore[arg-type]
    vectors = []
    for batch in batches:
        failed = next((record.error for record in batch.records if record.error is not None), None)
        if failed is not None:
            raise ValueError(failed)
        vectors.append(batch[output])
    return torch.cat(vectors)


def backbone_of(store: FeatureStore, model: StellarModel | Backbone) -> Backbone:
    """Returns a model with the preprocessing of a store.

    Raises:
        ValueError: if another model made the store, or the preprocessing cannot be made again.
    """
    if isinstance(model, Backbone):
        backbone = model
        if backbone.describe_model()["weights_sha256"] != store.manifest.model["weights_sha256"]:
            raise ValueError(f"{store.path} was made by another model than {one_line(model.name)}: its weights differ")
    else:
        check_weights(store, model)
        backbone = as_backbone(model, processor_of(store, model))
    if backbone.describe_preprocessing()["id"] != store.manifest.fit_id:
        raise ValueError(
            f"the preprocessing of {store.path} cannot be made again from its manifest: encode the images yourself and "
            "pass their features"
        )
    return backbone


def processor_of(store: FeatureStore, model: StellarModel) -> StellarImageProcessor:
    """Returns the processor of a STELLAR model with the settings in the manifest of a store."""
    settings: dict[str, Any] = dict(store.manifest.preprocessing["settings"])
    options = {name: settings[name] for name in _SETTINGS if name in settings}
    options["apply_icc_profile"] = settings.get("apply_icc_profile", False)  # absent in stores of earlier releases
    try:
        height, width = settings["crop_size"]
        options["crop_size"] = {"height": int(height), "width": int(width)}
        options["size"] = {"shortest_edge": int(settings["shortest_edge"])}
        return StellarImageProcessor.from_config(model.config, **options)
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"the preprocessing settings of {store.path} do not fit: {one_line(error)}") from error


_SETTINGS = ("fit", "patch_size", "fill_value", "do_resize", "do_center_crop")
