"""The features of a store in other forms: arrays, tables and data sets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from stellar_hub.store.reader import StoreReader
from stellar_hub.store.row_selection import Rows

if TYPE_CHECKING:
    import datasets
    import pandas

    from stellar_hub.store.conversions import StoreDataset
    from stellar_hub.store.feature_store import FeatureStore


class ConvertibleStore(StoreReader):
    """The part of `FeatureStore` that gives its features in other forms."""

    @property
    def _store(self) -> "FeatureStore":
        return cast("FeatureStore", self)

    @overload
    def to_numpy(self, output: str, rows: Rows | None = None) -> np.ndarray: ...  # type: ignore[overload-overlap]
    @overload
    def to_numpy(self, output: Sequence[str] | None = None, rows: Rows | None = None) -> dict[str, np.ndarray]: ...
    def to_numpy(
        self, output: str | Sequence[str] | None = None, rows: Rows | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Returns copies of features as arrays, `(num_chosen, ...)` float32, and labels.

        Args:
            output: Name of a feature, which gives its array. Or "row" or "label", which gives row numbers, or places in
                `classes`, int64. Several names, or None for all, give a dictionary that has "row" and "label", too.
            rows: Rows to take; None takes all, those with an error included. `store.ok` leaves them out.

        Raises:
            KeyError: if the store does not hold a feature.
        """
        from stellar_hub.store.conversions import to_numpy

        return to_numpy(self._store, output, rows)

    def to_pandas(self, outputs: Sequence[str] | None = (), rows: Rows | None = None) -> "pandas.DataFrame":
        """Returns a `pandas.DataFrame`: the columns of the index, "label", and a column of arrays for each feature.

        Args:
            outputs: Names of the features; empty gives the index and labels alone, None takes all features.
            rows: Rows to take; None takes all, those with an error included.

        Raises:
            ImportError: if pandas is not installed.
            KeyError: if the store does not hold a feature.
        """
        from stellar_hub.store.conversions import to_pandas

        return to_pandas(self._store, outputs, rows)

    def to_torch(self, outputs: Sequence[str] | None = None, with_errors: bool = False) -> "StoreDataset":
        """Returns a `torch.utils.data.Dataset` of dictionaries: "row", "label" and the features by name.

        Labels are integers. The data set has `classes`, `class_to_idx` and `targets`, as those of torchvision.

        Args:
            outputs: Names of the features; None takes all.
            with_errors: Whether to include rows with an error, as NaN.

        Raises:
            KeyError: if the store does not hold a feature.
        """
        from stellar_hub.store.conversions import StoreDataset

        return StoreDataset(self._store, outputs, with_errors)

    def to_datasets(self, outputs: Sequence[str] | None = None, with_errors: bool = False) -> "datasets.Dataset":
        """Returns a `datasets.Dataset` with the columns of the index, "label" and one column for each feature.

        "label" is a `datasets.ClassLabel` with the names in `classes`.

        Args:
            outputs: Names of the features; None takes all.
            with_errors: Whether to include rows with an error, as NaN.

        Raises:
            ImportError: if `datasets` is not installed.
            KeyError: if the store does not hold a feature.
        """
        from stellar_hub.store.conversions import to_datasets

        return to_datasets(self._store, outputs, with_errors)
