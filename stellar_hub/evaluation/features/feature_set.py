"""Features by name with the labels beside them: all that a protocol needs to know of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

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
