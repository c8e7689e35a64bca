"""Features out of feature stores: those that users name, and those in the cache."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.feature_set import FeatureSet
from stellar_hub.evaluation.left_out import UnreadableImagesError
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.names import make_feature, needed_for
from stellar_hub.features.rows import printable
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.origin import remedy_of_change, stale_rows


def read_features(
    store: FeatureStore, rows: Sequence[int], names: Sequence[str], allow_errors: bool = False
) -> dict[str, Tensor]:
    """Reads features of some rows of a store, or derives them from those that the store has.

    Args:
        store: The store.
        rows: Numbers of the rows.
        names: Names of the features.
        allow_errors: Whether rows with an error are read as NaN.

    Returns:
        Each feature `(len(rows), ...)`, float32, in memory.

    Raises:
        ValueError: if the store lacks a feature, or a row has an error and that is not allowed.
    """
    parts = {name: (name,) if name in store.outputs else needed_for(name) for name in names}
    needed = list(dict.fromkeys(part for name in names for part in parts[name]))
    absent = sorted(set(needed) - set(store.outputs))
    if absent:
        raise ValueError(
            f"the store lacks {', '.join(absent)}; it has {', '.join(store.outputs)}: extract into another folder with "
            f"--outputs {','.join(needed)}, or evaluate what is there (--pooling)"
        )
    failed = [] if allow_errors else [record for record in store.records(rows) if record.error is not None]
    if failed:
        raise ValueError(one_line(f"the store has no features of {failed[0].image}: {failed[0].error}"))
    read = {part: store.read(part, rows).float().clone() for part in needed}  # not mapped: aligned, and independent
    return {name: make_feature(name, read) for name in names}


def features_of_labelled(store: FeatureStore, labelled: LabelledImages, names: Sequence[str]) -> FeatureSet:
    """Reads the features of labelled images out of a store, in the order of the images.

    Args:
        store: Store that has at least these images, under the same names.
        labelled: Images and labels.
        names: Names of the features.

    Raises:
        UnreadableImagesError: if images have an error in the store, because they could not be read.
        ValueError: if the store lacks a feature or an image, or a feature is not finite.
    """
    places = _rows_by_image(store)
    images = [str(labelled.images[index]) for index in range(len(labelled))]
    keys = [_image_key(printable(image)) for image in images]
    lost = [image for image, key in zip(images, keys, strict=True) if key not in places]
    if lost:
        raise ValueError(
            f"the store lacks {len(lost)} of the {len(images)} images of {labelled.name}, the first is "
            f"{one_line(printable(lost[0]))}"
        )
    rows = [places[key] for key in keys]
    failed = {index: record.error for index, record in enumerate(store.records(rows)) if record.error is not None}
    if failed:
        raise UnreadableImagesError(labelled.images, failed, complete=True)
    features = read_features(store, rows, names)
    return FeatureSet(features, [printable(image) for image in images], torch.tensor(labelled.labels), labelled.classes)


def open_stores(folders: Sequence[str | os.PathLike[str]]) -> tuple[FeatureStore, ...]:
    """Opens stores that `stellar-hub extract` wrote.

    Raises:
        FileNotFoundError: if a folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if a store is damaged or not complete.
    """
    return tuple(FeatureStore(folder) for folder in folders)


def check_stores(stores: Sequence[FeatureStore], backbones: Sequence[Backbone]) -> list[str]:
    """Returns a note for each store, which names the backbones that use it.

    Raises:
        ValueError: if no backbone can use a store.
    """
    notes = []
    for store in stores:
        users = [backbone.name for backbone in backbones if not _mismatches(store, backbone)]
        if not users:
            reasons = one_line("; ".join(_mismatches(store, backbones[0])))
            raise ValueError(
                f"{store.path} does not fit {backbones[0].name}: {reasons}. Extract the features again, or leave out "
                "the store"
            )
        dtype = store.manifest.features["dtype"]
        notes.append(f"features of {', '.join(users)} read from the store {store.path.name}, kept as {dtype}")
    return notes


def stored_features(
    stores: Sequence[FeatureStore], backbone: Backbone, labelled: LabelledImages, names: Sequence[str]
) -> FeatureSet | None:
    """Returns a backbone's features of labelled images out of the first store that has them.

    Returns:
        The features; None if no store belongs to the backbone.

    Raises:
        ValueError: if the stores of the backbone lack a feature or images, a shard is damaged, or images have changed
            since the store was made.
    """
    fitting = [store for store in stores if not _mismatches(store, backbone)]
    if not fitting:
        return None
    first = _image_key(printable(str(labelled.images[0])))
    store = next((store for store in fitting if first in _rows_by_image(store)), fitting[0])
    stale = stale_rows(store)
    if stale:
        raise ValueError(f"{stale[0]}; {remedy_of_change(store)}")
    return features_of_labelled(store, labelled, names)


def _mismatches(store: FeatureStore, backbone: Backbone) -> list[str]:
    """Returns why a store does not hold the features that a backbone would compute; empty if it does."""
    reasons = []
    if backbone.describe_model()["weights_sha256"] != store.manifest.model["weights_sha256"]:
        reasons.append(f"it has the features of {store.manifest.model['name']} with other weights")
    if backbone.describe_preprocessing()["id"] != store.manifest.fit_id:
        reasons.append("its images were fitted in another way")
    return reasons


def _rows_by_image(store: FeatureStore) -> dict[str, int]:
    return {_image_key(record.image): row for row, record in enumerate(store.records(range(len(store))))}


def _image_key(name: str) -> str:
    """Returns the absolute path of an image, wherever the path was written; a name in an archive stays the same."""
    return os.path.abspath(name)
