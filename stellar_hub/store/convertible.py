"""The features of a store in other forms: arrays, tables, data sets, files and databases."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from stellar_hub.store.reader import StoreReader
from stellar_hub.store.row_selection import Rows

if TYPE_CHECKING:
    import datasets
    import pandas
    from lancedb.db import DBConnection
    from qdrant_client import QdrantClient

    from stellar_hub.store.conversions import StoreDataset
    from stellar_hub.store.databases.outgoing import ExportReport
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

    def to_qdrant(
        self,
        client: "QdrantClient",
        collection: str,
        outputs: Sequence[str] | None = None,
        *,
        dtype: str = "float32",
        source: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = True,
    ) -> "ExportReport":
        """Writes the rows into a collection of Qdrant, which is created if it does not exist.

        Each feature is a named vector with cosine similarity. A feature `(r, d)`, such as `S`, is a multi-vector that
        is compared by MAX_SIM. The payload has the columns of the index, "label", "source" and a "digest". Rows with an
        error are left out. The id of a row stays the same, so that you can run this again, also after an interruption:
        rows that are there with the same digest are not sent again. The metadata of the collection say which model and
        preprocessing made the features.

        Args:
            client: A `qdrant_client.QdrantClient`: of a server, of a local folder, or in memory.
            collection: Name of the collection.
            outputs: Names of the features; None takes S, pooled and cls, those that the store holds.
            dtype: Type that the collection keeps: "float32" or "float16".
            source: Name of this store in the collection, which is part of the ids: give the stores of one collection
                different names. Default: the name of the store's folder.
            batch_size: Number of rows that are sent at a time. Default: as many as fit a request, at most 256.
            show_progress: Whether to show progress on standard error.

        Returns:
            A report with the numbers of rows that were written, were there already, and were left out.

        Raises:
            ConnectionError: if the server does not answer, also after six tries of a batch. What was sent stays.
            ImportError: if qdrant_client is not installed.
            KeyError: if the store does not hold a feature.
            PermissionError: if the server refuses the key.
            ValueError: if the collection has features of another model, preprocessing, size or dtype, or of other
                names; or if all rows have an error.
        """
        from stellar_hub.store.databases.qdrant import to_qdrant

        return to_qdrant(self._store, client, collection, outputs, dtype, source, batch_size, show_progress)

    def to_lance(
        self,
        uri: "str | os.PathLike[str] | DBConnection",
        table: str = "features",
        outputs: Sequence[str] | None = None,
        *,
        dtype: str = "float32",
        source: str | None = None,
        batch_size: int | None = None,
        show_progress: bool = True,
    ) -> "ExportReport":
        """Writes the rows into a table of LanceDB, which is created if it does not exist.

        Each feature is a column of vectors. A feature `(r, d)`, such as `S`, is a multivector column. The other columns
        are "id", "source", those of the index, "label" and "digest". Rows with an error are left out. The id of a row
        stays the same, so that you can run this again, also after an interruption: rows that are there with the same
        digest are not written again. The metadata of the table say which model and preprocessing made the features.

        Args:
            uri: Folder of the database, an address such as "s3://bucket/folder", or a connection of lancedb.
            table: Name of the table.
            outputs: Names of the features; None takes S, pooled and cls, those that the store holds.
            dtype: Type of the columns: "float32" or "float16".
            source: Name of this store in the table, which is part of the ids: give the stores of one table different
                names. Default: the name of the store's folder.
            batch_size: Number of rows that are written at a time, as one version of the table. Default: 64 MiB of
                features, at most 4096 rows.
            show_progress: Whether to show progress on standard error.

        Returns:
            A report with the numbers of rows that were written, were there already, and were left out.

        Raises:
            ImportError: if lancedb is not installed.
            KeyError: if the store does not hold a feature.
            OSError: if the database cannot be read or written.
            ValueError: if the table has features of another model, preprocessing, size or dtype, or of other names; or
                if all rows have an error.
        """
        from stellar_hub.store.databases.lance import to_lance

        return to_lance(self._store, uri, table, outputs, dtype, source, batch_size, show_progress)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        outputs: Sequence[str] | None = None,
        *,
        dtype: str = "float32",
        source: str | None = None,
        rows_per_file: int | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> "ExportReport":
        """Writes the rows into a parquet file, or into a folder of them, the whole output or nothing.

        The columns are "id", "source", those of the index, "label", "digest", and each feature as lists of fixed size.
        Rows with an error are left out. The metadata of the schema say which model and preprocessing made the features.
        An output that has the same content already is left as it is.

        Args:
            path: File to write, or folder if `rows_per_file` is given.
            outputs: Names of the features; None takes all.
            dtype: Type of the features: "float32" or "float16".
            source: Name of this store in the file, which is part of the ids. Default: the name of the store's folder.
            rows_per_file: Number of rows in each file of a folder; None writes one file.
            overwrite: Whether to replace a file that exists, or a folder that an earlier export wrote.
            show_progress: Whether to show progress on standard error.

        Returns:
            A report with the numbers of rows that were written, were there already, and were left out.

        Raises:
            FileExistsError: if the output exists and may not be replaced.
            KeyError: if the store does not hold a feature.
            OSError: if the output cannot be written.
            ValueError: if the output lies in the store, or all rows have an error.
        """
        from stellar_hub.store.databases.parquet import to_parquet

        return to_parquet(self._store, path, outputs, dtype, source, rows_per_file, overwrite, show_progress)

    def to_npy(
        self,
        folder: str | os.PathLike[str],
        outputs: Sequence[str] | None = None,
        *,
        dtype: str = "float32",
        source: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> "ExportReport":
        """Writes the rows into a folder of arrays, one `.npy` file for each feature, the whole folder or nothing.

        The store may be larger than memory, and `numpy.load(file, mmap_mode="r")` reads the arrays without loading
        them. Line `i` of each array is line `i` of `rows.parquet`, which has the columns "id", "source", those of the
        index, "label" and "digest". Rows with an error are left out. A folder that has the same content already is left
        as it is.

        Args:
            folder: Folder to write.
            outputs: Names of the features; None takes all.
            dtype: Type of the arrays: "float32" or "float16".
            source: Name of this store in `rows.parquet`, which is part of the ids. Default: the name of the store's
                folder.
            overwrite: Whether to replace a folder that an earlier export wrote.
            show_progress: Whether to show progress on standard error.

        Returns:
            A report with the numbers of rows that were written, were there already, and were left out.

        Raises:
            FileExistsError: if the folder exists and may not be replaced.
            KeyError: if the store does not hold a feature.
            OSError: if the folder cannot be written.
            ValueError: if the folder lies in the store, or all rows have an error.
        """
        from stellar_hub.store.databases.arrays import to_npy

        return to_npy(self._store, folder, outputs, dtype, source, overwrite, show_progress)
