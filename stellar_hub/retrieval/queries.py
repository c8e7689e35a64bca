"""What a search may be asked with: vectors, arrays, or images, which a model encodes as the store was made."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.embeddings import compute_feature
from stellar_hub.features.rows import FeatureBatch, FeatureRow
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.retrieval.hits import check_store
from stellar_hub.store import FeatureStore
from stellar_hub.store.conversions import check_weights

ImageQuery = str | os.PathLike[str] | Image.Image
_IMAGES = (str, os.PathLike, Image.Image)
# Features, rows of a store, or images.
Queries = (
    Tensor
    | np.ndarray
    | FeatureRow
    | FeatureBatch
    | ImageQuery
    | Sequence[Tensor]
    | Sequence[np.ndarray]
    | Sequence[float]
    | Sequence[ImageQuery]
)


def as_queries(
    store: FeatureStore,
    queries: Queries,
    output: str,
    model: StellarModel | Backbone | None = None,
    load_model: bool = False,
) -> Tensor:
    """Returns the vectors or sets of tokens that a search compares with a store, `(Q, ...)`.

    Args:
        store: Store to search.
        queries: Features `(Q, ...)`, or those of one image, as `as_features` takes them; or images, each a path, a PIL
            image, or an array or tensor of uint8, alone or in a list.
        output: Feature that is compared.
        model: Model that made the store, for images. None takes the one that `store.load_model()` has loaded.
        load_model: Whether to load the model by the name in the store's manifest if there is none.

    Raises:
        FileNotFoundError: if the path of an image does not exist.
        KeyError: if the store, or the row that is the query, does not hold the output.
        TypeError: if the queries or the store are something else.
        ValueError: if an image cannot be read, no model is known, or it is not the model that made the store.
    """
    check_store(store)
    shape = store.shape(output)
    if isinstance(queries, FeatureRow | FeatureBatch):
        _check_origin(store, queries.weights)
        queries = queries[output]
    images: Any = [queries] if is_image(queries) else queries
    if _is_sequence(images) and all(map(is_image, images)):
        backbone = backbone_of(store, store.known_model(model, "a search for images", load_model))
        precision = store.manifest.features.get("precision", "float32")
        return compute_feature(backbone, images, output, precision=precision)
    features = as_features(queries, shape)
    if features is None:
        raise TypeError(
            f"queries must be features {spell_shape(shape)}, paths of images or PIL images, got {_kinds_in(queries)}"
        )
    return features


def is_image(query: Any) -> bool:
    """Whether a query is an image: a path, a PIL image, or bytes of three or four channels, which no feature has."""
    if isinstance(query, np.ndarray):
        return query.dtype == np.uint8 and query.ndim == 3 and query.shape[2] in (3, 4)
    if isinstance(query, Tensor):
        return query.dtype == torch.uint8 and query.ndim == 3 and query.shape[0] in (3, 4)
    return isinstance(query, _IMAGES)


def _check_origin(store: FeatureStore, weights: str | None) -> None:
    """Raises ValueError if features of a store, made by weights of this SHA-256, are those of another model."""
    own = store.manifest.model["weights_sha256"]
    if weights is not None and weights != own:
        raise ValueError(
            f"the query is a row of a store that another model made (weights {one_line(weights[:12])}, those of "
            f"{one_line(store.path)} are {own[:12]}): extract both with one model"
        )


def as_features(queries: Any, shape: tuple[int, ...]) -> Tensor | None:
    """Returns queries that are features as a tensor on the CPU, `(Q, ...)`.

    Args:
        queries: A tensor, an array, or a list of tensors, of arrays or of numbers.
        shape: Shape of one feature. A query of this shape is one query.

    Returns:
        The queries; None if they are not features.

    Raises:
        ValueError: if the features of a list differ in shape, or sets of tokens are expected and these are vectors.
    """
    if isinstance(queries, list | tuple) and (_all_are(queries, Tensor) or _all_are(queries, np.ndarray)):
        if len({tuple(each.shape) for each in queries}) > 1:
            found = " and ".join(str(tuple(each.shape)) for each in queries[:2])
            raise ValueError(f"a list of queries must have features of one shape, {spell_shape(shape)}, got {found}")
        queries = torch.stack([torch.as_tensor(each) for each in queries])
    elif isinstance(queries, list | tuple) and are_numbers(queries):
        queries = np.asarray(queries)
    if isinstance(queries, np.ndarray) and queries.dtype.kind in "fiu":
        queries = torch.from_numpy(np.ascontiguousarray(queries)).float()
    if not isinstance(queries, Tensor):
        return None
    features = queries.detach().cpu()
    if len(shape) == 2:
        _refuse_vectors(tuple(features.shape), shape)
    return features[None] if features.ndim == len(shape) else features


def _refuse_vectors(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises ValueError if queries have the shape of vectors, `(d,)` or `(Q, d)`, where sets of tokens are expected."""
    if found[-1:] != shape[-1:] or len(found) > 2 or found == shape:
        return
    hint = "; a set of fewer tokens is queries[None]" if len(found) == 2 else ""
    raise ValueError(
        f"queries must be sets of tokens {spell_shape(shape)}, got {found}: for vectors, such as pooled ones, use "
        f"search_images{hint}"
    )


def spell_shape(shape: tuple[int, ...]) -> str:
    """Returns the shapes that queries may have, such as "(Q, 192) or (192,)"."""
    return f"(Q, {', '.join(map(str, shape))}) or {shape}"


def _is_sequence(values: Any) -> bool:
    """Whether values are a sequence of at least one object."""
    if isinstance(values, np.ndarray):
        return values.size > 0 and values.ndim > 0
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) > 0


def _all_are(values: Any, kind: Any) -> bool:
    """Whether values are a sequence of at least one object, each of a kind."""
    return _is_sequence(values) and all(isinstance(value, kind) for value in values)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether values are numbers, or lists of numbers of equal length, to any depth."""
    if _all_are(values, int | float | np.number):
        return True
    same = _all_are(values, list | tuple) and len({len(value) for value in values}) == 1
    return same and all(are_numbers(value) for value in values)


def _kinds_in(queries: Any) -> str:
    """Returns what queries are, for a message: their type, or those of the values of a list."""
    if not isinstance(queries, list | tuple | np.ndarray):
        return type(queries).__name__
    kinds = ", ".join(sorted({type(each).__name__ for each in queries}))
    return f"{type(queries).__name__} of {kinds or 'nothing'}"


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
