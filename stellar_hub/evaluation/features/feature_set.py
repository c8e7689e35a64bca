"""Features by name with the labels beside them: all that a protocol needs to know of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledPictures

MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of `N` pictures, in memory.

    Attributes:
        features: By name, each `(N, ...)`.
        names: What to call each picture in messages.
        labels: `(N,)` int64; None where there are none.
        classes: What labels are indices into.

    Raises:
        ValueError: if lengths differ, or a feature is not finite: the first pictures where it is not are named.
    """

    features: Mapping[str, Tensor]
    names: Sequence[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(feature) for name, feature in self.features.items()}
        lengths |= {} if self.labels is None else {"labels": len(self.labels)}
        if any(length != len(self.names) for length in lengths.values()):
            raise ValueError(f"there are {len(self.names)} pictures, and of features {lengths}: lengths must be equal")
        for name, feature in self.features.items():
            check_finite(name, feature, self.names)

    def __len__(self) -> int:
        return len(self.names)


def check_finite(name: str, feature: Tensor, names: Sequence[str]) -> None:
    """Raise ValueError if a feature `(N, ...)` holds NaN or infinite values, naming pictures where it does."""
    if feature.isfinite().all():
        return
    bad = (~feature.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    shown = ", ".join(names[index] for index in bad[:MOST_NAMED])
    raise ValueError(
        f"the feature {name!r} is not finite for {len(bad)} of {len(names)} pictures ({shown}"
        f"{', ...' if len(bad) > MOST_NAMED else ''}): look at the weights, or compute in a wider type"
    )


class StoredFeatures(Protocol):
    """What a store of features on disk has to offer to be evaluated."""

    def __len__(self) -> int: ...

    def feature_names(self) -> Sequence[str]:
        """The features each picture has."""
        ...

    def read(self, name: str, index: int) -> Tensor:
        """A feature of the picture of this index."""
        ...

    def picture_name(self, index: int) -> str:
        """What to call the picture of this index: the same as in the labelled pictures."""
        ...


def from_store(store: StoredFeatures, labelled: LabelledPictures, wanted: Sequence[str]) -> FeatureSet:
    """The features of labelled pictures out of a store, in the order of the pictures.

    Args:
        store: Has features of at least these pictures.
        labelled: Pictures and labels.
        wanted: Names of features.

    Raises:
        ValueError: if the store lacks a feature or a picture.
    """
    absent = [name for name in wanted if name not in store.feature_names()]
    if absent:
        raise ValueError(f"the store has no {', '.join(absent)}; it has {', '.join(store.feature_names())}")
    place = {store.picture_name(index): index for index in range(len(store))}
    names = [str(labelled.pictures[index]) for index in range(len(labelled))]
    lost = [name for name in names if name not in place]
    if lost:
        raise ValueError(
            f"the store lacks {len(lost)} of the {len(names)} pictures of {labelled.name}, the first is {lost[0]}"
        )
    features = {name: torch.stack([store.read(name, place[each]) for each in names]) for name in wanted}
    return FeatureSet(features, names, torch.tensor(labelled.labels), labelled.classes)
