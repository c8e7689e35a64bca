"""Feature stores in the place of computing: which of them hold what a model would compute, and what was used."""

import os
from collections.abc import Sequence

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.evaluation.backbones.backbone import Backbone
from stellar_hub.evaluation.backbones.stellar import StellarBackbone
from stellar_hub.evaluation.features.feature_set import FeatureSet
from stellar_hub.evaluation.features.from_store import from_store, picture_key
from stellar_hub.extraction import FeatureStore
from stellar_hub.extraction.model_identity import describe_model, describe_preprocessing


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
        reasons.append("its pictures were fitted otherwise")
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
    stores: Sequence[FeatureStore], backbone: Backbone, labelled: LabelledPictures, names: Sequence[str]
) -> FeatureSet | None:
    """A model's features of labelled pictures out of the first store that has them; None if none is of the model.

    Raises:
        ValueError: if stores of the model lack a feature or pictures.
    """
    fitting = [store for store in stores if not why_not_of(store, backbone)]
    if not fitting:
        return None
    first = picture_key(str(labelled.pictures[0]))
    holding = [
        store for store in fitting if first in {picture_key(r.picture) for r in store.records(range(len(store)))}
    ]
    return from_store((holding or fitting)[0], labelled, names)
