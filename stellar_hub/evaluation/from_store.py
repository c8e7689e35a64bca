"""Features out of a store on disk in the place of computed ones."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.feature_set import FeatureSet
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.identity import describe_model, describe_preprocessing
from stellar_hub.features.image_record import printable
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.store.feature_store import FeatureStore

# What each feature of the protocols is made of.
MADE_OF: dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "pooled": (("pooled",), lambda pooled: pooled),
    "cls": (("cls",), lambda cls: cls),
    "patches_mean": (("patches",), lambda patches: patches.mean(dim=1)),
    "S": (("S",), lambda semantics: semantics),
    "patches": (("patches",), lambda patches: patches),
    "Z": (("L", "S"), low_rank_product),
    "L": (("L",), lambda localization: localization),
}


class StoredFeatures(Protocol):
    """What a store has to offer: rows of features by name, and what is known of each row's image."""

    def __len__(self) -> int: ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the features each row has: of "S", "L", "pooled", "cls" and "patches"."""
        ...

    def read(self, output: str, rows: Sequence[int]) -> Tensor:
        """One feature of some rows, `(len(rows), ...)`."""
        ...

    def records(self, rows: Sequence[int]) -> Sequence[Any]:
        """For each row its `image`, a name or path, and `error`: why it has no features, or None."""
        ...


def image_key(name: str) -> str:
    """What an image is told by: its path, wherever one stands; a name in an archive stays what it is."""
    return os.path.abspath(name)


def from_store(store: StoredFeatures, labelled: LabelledImages, wanted: Sequence[str]) -> FeatureSet:
    """The features of labelled images out of a store, in the order of the images.

    Args:
        store: Has features of at least these images, under the same names.
        labelled: Images and labels.
        wanted: Names of features, see `MADE_OF`.

    Raises:
        ValueError: if the store lacks a feature or an image, an image could not be read when the store was made, or
            a feature is not finite.
    """
    needed = {part for name in wanted for part in MADE_OF[name][0]}
    absent = sorted(needed - set(store.outputs))
    if absent:
        raise ValueError(f"the store has no {', '.join(absent)}; it has {', '.join(store.outputs)}")
    records = store.records(range(len(store)))
    place = {image_key(record.image): row for row, record in enumerate(records)}
    names = [str(labelled.images[index]) for index in range(len(labelled))]
    keys = [image_key(printable(name)) for name in names]
    lost = [name for name, key in zip(names, keys, strict=True) if key not in place]
    if lost:
        raise ValueError(
            f"the store lacks {len(lost)} of the {len(names)} images of {labelled.name}, the first is {lost[0]}"
        )
    rows = [place[key] for key in keys]
    failed = [records[row] for row in rows if records[row].error is not None]
    if failed:
        raise ValueError(f"the store has no features of {failed[0].image}: {failed[0].error}")
    parts = {part: store.read(part, rows).float() for part in needed}
    features = {}
    for name in wanted:
        sources, make = MADE_OF[name]
        features[name] = make(*(parts[source] for source in sources))
    return FeatureSet(features, names, torch.tensor(labelled.labels), labelled.classes)


def open_stores(folders: Sequence[str | os.PathLike[str]]) -> tuple[FeatureStore, ...]:
    """Open what `stellar-hub extract` wrote.

    Raises:
        FileNotFoundError: if a folder is no store.
        ImportError: if pyarrow is not installed.
        ValueError: if a store is damaged or not complete.
    """
    return tuple(FeatureStore(folder) for folder in folders)


def why_not_of(store: FeatureStore, backbone: Backbone) -> list[str]:
    """Why a store does not hold the features that a model would compute; empty where it does."""
    if not isinstance(backbone, StellarBackbone):
        return [f"{backbone.name} is no STELLAR model"]
    reasons = []
    if describe_model(backbone.network)["weights_sha256"] != store.manifest.model["weights_sha256"]:
        reasons.append(f"it has the features of {store.manifest.model['name']} with other weights")
    if describe_preprocessing(backbone.processor)["id"] != store.manifest.preprocessing["id"]:
        reasons.append("its images were fitted otherwise")
    return reasons


def check_stores(stores: Sequence[FeatureStore], backbones: Sequence[Backbone]) -> list[str]:
    """A note for each store, on what it is used for.

    Raises:
        ValueError: if a store is of none of the models.
    """
    notes = []
    for store in stores:
        fitting = [backbone.name for backbone in backbones if not why_not_of(store, backbone)]
        if not fitting:
            reasons = "; ".join(why_not_of(store, backbones[0]))
            raise ValueError(
                f"{store.path} does not serve {backbones[0].name}: {reasons}. Extract anew, or leave it out"
            )
        dtype = store.manifest.features["dtype"]
        notes.append(f"features of {', '.join(fitting)} out of the store {store.path.name}, kept as {dtype}")
    return notes


def stored_features(
    stores: Sequence[FeatureStore], backbone: Backbone, labelled: LabelledImages, names: Sequence[str]
) -> FeatureSet | None:
    """A model's features of labelled images out of the first store that has them; None if none is of the model.

    Raises:
        ValueError: if stores of the model lack a feature or images.
    """
    fitting = [store for store in stores if not why_not_of(store, backbone)]
    if not fitting:
        return None
    first = image_key(str(labelled.images[0]))
    holding = [store for store in fitting if first in {image_key(r.image) for r in store.records(range(len(store)))}]
    return from_store((holding or fitting)[0], labelled, names)
