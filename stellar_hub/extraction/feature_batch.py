"""Features of some rows, together with what is known of their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.extraction.picture_record import PictureRecord


class FeatureRow(NamedTuple):
    """One row: what is known of the picture, and its features by name, without a batch dimension."""

    record: PictureRecord
    features: dict[str, Tensor]


@dataclass(frozen=True)
class FeatureBatch:
    """Some rows.

    `batch["S"]` is `batch.features["S"]`.

    Attributes:
        records: One for each row, in the order of rows.
        features: Tensors `(B, ...)` by name. Rows with an error are NaN, so that a mean over them cannot go unseen.
    """

    records: Sequence[PictureRecord]
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            raise KeyError(f"there is no {name!r} here, only {', '.join(self.features)}: ask for it in outputs")
        return self.features[name]

    @property
    def row_ids(self) -> Tensor:
        """Indices of the pictures in their source, `(B,)` int64."""
        return torch.tensor([record.row for record in self.records], dtype=torch.int64)

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(B,)` bool."""
        return torch.tensor([record.error is None for record in self.records], dtype=torch.bool)
