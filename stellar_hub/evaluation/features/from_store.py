"""Features out of a store on disk in the place of computed ones."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.evaluation.features.feature_set import FeatureSet
from stellar_hub.extraction.picture_record import printable
from stellar_hub.modeling.factorization import low_rank_product

# What each feature of the protocols is made of.
MADE_OF: dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "S-mean": (("pooled",), lambda pooled: pooled),
    "cls": (("cls",), lambda cls: cls),
    "patches-mean": (("patches",), lambda patches: patches.mean(dim=1)),
    "S-set": (("S",), lambda semantics: semantics),
    "patches": (("patches",), lambda patches: patches),
    "Z": (("L", "S"), low_rank_product),
    "L": (("L",), lambda localization: localization),
}


class StoredFeatures(Protocol):
    """What a store has to offer: rows of features by name, and what is known of each row's picture."""

    def __len__(self) -> int: ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the features each row has: of "S", "L", "pooled", "cls" and "patches"."""
        ...

    def read(self, output: str, rows: Sequence[int]) -> Tensor:
        """One feature of some rows, `(len(rows), ...)`."""
        ...

    def records(self, rows: Sequence[int]) -> Sequence[Any]:
        """For each row its `picture`, a name or path, and `error`: why it has no features, or None."""
        ...


def picture_key(name: str) -> str:
    """What a picture is told by: its path, wherever one stands; a name in an archive stays what it is."""
    return os.path.abspath(name)


def from_store(store: StoredFeatures, labelled: LabelledPictures, wanted: Sequence[str]) -> FeatureSet:
    """The features of labelled pictures out of a store, in the order of the pictures.

    Args:
        store: Has features of at least these pictures, under the same names.
        labelled: Pictures and labels.
        wanted: Names of features, see `MADE_OF`.

    Raises:
        ValueError: if the store lacks a feature or a picture, a picture could not be read when the store was made, or
            a feature is not finite.
    """
    needed = {part for name in wanted for part in MADE_OF[name][0]}
    absent = sorted(needed - set(store.outputs))
    if absent:
        raise ValueError(f"the store has no {', '.join(absent)}; it has {', '.join(store.outputs)}")
    records = store.records(range(len(store)))
    place = {picture_key(record.picture): row for row, record in enumerate(records)}
    names = [str(labelled.pictures[index]) for index in range(len(labelled))]
    keys = [picture_key(printable(name)) for name in names]
    lost = [name for name, key in zip(names, keys, strict=True) if key not in place]
    if lost:
        raise ValueError(
            f"the store lacks {len(lost)} of the {len(names)} pictures of {labelled.name}, the first is {lost[0]}"
        )
    rows = [place[key] for key in keys]
    failed = [records[row] for row in rows if records[row].error is not None]
    if failed:
        raise ValueError(f"the store has no features of {failed[0].picture}: {failed[0].error}")
    parts = {part: store.read(part, rows).float() for part in needed}
    features = {}
    for name in wanted:
        sources, make = MADE_OF[name]
        features[name] = make(*(parts[source] for source in sources))
    return FeatureSet(features, names, torch.tensor(labelled.labels), labelled.classes)
