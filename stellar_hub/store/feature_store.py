"""A feature store, opened for reading."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from PIL import Image
from torch import Tensor

from stellar_hub.features.rows import FeatureBatch, FeatureRow
from stellar_hub.modeling.pretrained_names import needed
from stellar_hub.modeling.safe_text import escape_control, one_line
from stellar_hub.progress import track
from stellar_hub.store.convertible import ConvertibleStore
from stellar_hub.store.manifest import incompatibilities
from stellar_hub.store.origin import open_named_source, stale_rows
from stellar_hub.store.reader import COLUMNS
from stellar_hub.store.resume import MANY_ROWS
from stellar_hub.store.row_selection import Rows, check_row, is_single

if TYPE_CHECKING:
    from stellar_hub.data.sources import ImageSource
    from stellar_hub.features import Backbone
    from stellar_hub.modeling import StellarModel
    from stellar_hub.retrieval import Hits


class FeatureStore(ConvertibleStore):
    """The features that `stellar-hub extract` wrote: `store[7]`, `store[10:20]`, `store["pooled"]`, `len(store)`.

    Iteration gives the rows, and `"pooled" in store` says whether the store has a feature. "label" and "row" are taken
    wherever names of features are. Row `i` is image `i` of the source; rows that appends added come after those, and no
    row changes its number. A store that is open does not see later appends. Features have the dtype of the store; those
    of quantized stores are float32. They are copies, which may be changed in place; `batches` reads a store that is
    larger than memory. Rows with an error are NaN. Wherever rows are given, they are numbers from 0 on, a slice, or a
    mask of booleans with one value for each row of the store.

    Args:
        path: Folder of the store.
        check: Whether to read each shard once when it is first used, and to compare it with its SHA-256, so that a
            changed byte is an error. Each process does this once for each shard.

    Attributes:
        path: Folder of the store.
        manifest: Description of what made the store, as it was begun.
        segments: Descriptions of the segments that appends added, in the order of rows.
        check: Whether shards are compared with their SHA-256.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if the manifest or the index is damaged, or the store is not complete.
    """

    _model: "StellarModel | None" = None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {self.shape(name)}" for name in self.outputs)
        count, grown = len(self.segments), len(self) - self.manifest.num_rows
        segments = f", {grown:,} of them in {count:,} segment{'s' * (count > 1)}" if count else ""
        return escape_control(
            f"FeatureStore({str(self.path)!r}: {len(self):,} rows{segments}, {self.counts['error']:,} with an error; "
            f"{shapes}; {self.manifest.features['dtype']}; {self.num_bytes / 1e6:,.2f} MB; model "
            f"{self.manifest.model['name'] or 'without a name'})"
        )

    @property
    def num_bytes(self) -> int:
        """Size of all shards in bytes."""
        paths = (self.shard_path(number) for number in range(self.num_shards))
        return sum(path.stat().st_size for path in paths if path.is_file())

    @overload
    def __getitem__(self, rows: int) -> FeatureRow: ...
    @overload
    def __getitem__(self, rows: str) -> Tensor: ...
    @overload
    def __getitem__(self, rows: Rows) -> FeatureBatch: ...
    def __getitem__(self, rows: int | str | Rows) -> FeatureRow | FeatureBatch | Tensor:
        if isinstance(rows, str):
            return self.read(rows)
        if not is_single(rows):
            chosen = self._select(rows)  # type: ignore[arg-type]
            return self._batch(chosen, self.outputs)
        row = check_row(rows, len(self))
        return self[row : row + 1][0]

    def _batch(self, rows: Any, names: Iterable[str]) -> FeatureBatch:
        """Returns some features of rows."""
        features = {name: self.read(name, rows) for name in names}
        return FeatureBatch(self.records(rows), features, self.manifest.model["weights_sha256"])

    def __contains__(self, output: object) -> bool:
        return output in self.outputs or output in COLUMNS

    def __iter__(self) -> Iterator[FeatureRow]:
        for batch in self.batches():
            yield from batch

    def batches(
        self, batch_size: int = 256, outputs: Sequence[str] | None = None, rows: Rows | None = None
    ) -> Iterator[FeatureBatch]:
        """Gives rows in order, in batches.

        Args:
            batch_size: Number of rows per batch, at least 1. If all rows are read, a batch never reaches into the next
                shard.
            outputs: Names of the features to read, "row" and "label" among them; None takes all features.
            rows: Rows to read; None takes all.

        Raises:
            KeyError: if the store does not hold a feature.
            ValueError: if `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        columns = [name for name in COLUMNS if name in ([outputs] if isinstance(outputs, str) else outputs or ())]
        names = (*columns, *self.known_outputs(outputs))
        numbers = range(self.num_shards)
        parts = [self.rows_of_shard(number) for number in numbers] if rows is None else [self._select(rows)]
        chunks = (part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size))
        return (self._batch(each, names) for each in chunks)

    def load_model(self) -> "StellarModel":
        """Loads the model that made the store, by the name in the manifest, and keeps it for `decode` and searches.

        The name may lead to any folder or repository: load only models of stores that you trust.

        Raises:
            OSError: if the model does not exist any more.
            ValueError: if the model is not a STELLAR model.
        """
        from stellar_hub.store.conversions import load_model_of

        if self._model is None:
            self._model = load_model_of(self.manifest)
        return self._model

    def known_model(self, model: Any, purpose: str, load_model: bool = False) -> Any:
        """Returns a model, or the one that `load_model` has loaded.

        Args:
            model: The model, or None.
            purpose: What it is needed for, as the subject of a sentence.
            load_model: Whether to load the model by the name in the manifest if there is none.

        Raises:
            TypeError: if it is the name of a model.
            ValueError: if there is none; the message has the next step.
        """
        if isinstance(model, str | os.PathLike):
            raise TypeError(f"model must be a model, not its name: pass StellarModel.from_pretrained({str(model)!r})")
        if model is None and load_model:
            return self.load_model()
        found = self._model if model is None else model
        if found is None:
            name = one_line(repr(self.manifest.model["name"]))
            raise ValueError(
                f"{purpose} needs the model that made the store: pass model=StellarModel.from_pretrained({name}), or "
                "load_model=True if you trust this name"
            )
        return found

    def search(
        self,
        queries: Any,
        k: int = 10,
        by: str | None = None,
        model: "StellarModel | Backbone | None" = None,
        load_model: bool = False,
    ) -> "Hits":
        """Finds the images that are most like each query: `store.search("photo.jpg", model=model).named(store)`.

        Args:
            queries: Images (a path, a PIL image, or a list of these), rows of a store, vectors `(Q, d)` or `(d,)`, or
                sets of tokens `(Q, r, d)`.
            k: Number of images to find for each query. A smaller store returns fewer.
            by: Feature to compare: a vector such as "pooled" or "cls", as `stellar_hub.retrieval.search_images` does,
                or the set of tokens "S", as `search_sets` does. None compares sets of tokens by "S", and other queries
                by "pooled", or by the first vector that the store holds.
            model: Model that made the store, which encodes queries that are images. None takes the one that
                `load_model` has loaded.
            load_model: Whether to load the model by the name in the manifest, once.

        Returns:
            The rows that were found, `(Q, k)`, the best first, and their similarities.

        Raises:
            FileNotFoundError: if the path of an image does not exist.
            KeyError: if the store does not hold the feature.
            ValueError: if the queries do not fit, or may be vectors and tokens, so that `by` must say which.
        """
        found: Hits = needed("search_store", "FeatureStore.search", "stellar_hub.store")(
            self, queries, k, by, model, load_model
        )
        return found

    @overload
    def decode(self, rows: int, model: "StellarModel | None" = None, load_model: bool = False) -> Image.Image: ...
    @overload
    def decode(
        self, rows: Rows, model: "StellarModel | None" = None, load_model: bool = False
    ) -> list[Image.Image]: ...
    def decode(
        self, rows: int | Rows, model: "StellarModel | None" = None, load_model: bool = False
    ) -> Image.Image | list[Image.Image]:
        """Decodes the image of a row, or the images of some rows, from their `S` and `L`.

        Args:
            rows: Number of a row, which gives one image; or several rows, which give a list.
            model: Model that made the store. None takes the one that `load_model` has loaded.
            load_model: Whether to load the model by the name in the manifest, once.

        Raises:
            ValueError: if a row has an error, the store lacks `S` or `L`, no model is known, or another model made the
                store.
        """
        from stellar_hub.store.conversions import decode_rows

        single = is_single(rows)
        chosen = [check_row(rows, len(self))] if single else self._select(rows)  # type: ignore[arg-type]
        for record in self.records(chosen):
            if record.error is not None:
                raise ValueError(f"row {record.row} has no features to decode: {one_line(record.error)}")
        images = decode_rows(self, chosen, self.known_model(model, "decoding", load_model))
        return images[0] if single else images

    def source(
        self,
        names: Sequence[str | os.PathLike[str]] | None = None,
        *,
        trust_names: bool = False,
        verify: bool = True,
        root: str | os.PathLike[str] | None = None,
    ) -> "ImageSource":
        """Opens the images that the store was made from.

        Args:
            names: Names of the source, as `open_sources` takes them.
            trust_names: Whether to open the names in the manifest. They may lead to any file or address: a store that
                comes from elsewhere decides what is opened.
            verify: Whether to compare the sizes and the modification times of the images' files with those of the
                extraction. False is for images that were copied without their times.
            root: Folder below which tables may name files; None allows none.

        Raises:
            OSError: if they do not exist any more.
            ValueError: if they have changed, no name is given and the manifest's names are not to be trusted, or the
                manifest has no name for their source.
        """
        return open_named_source(self, names, trust_names, verify, root)

    def compatible(self, other: "FeatureStore") -> bool:
        """Whether the features of two stores can be compared: they have the same weights and preprocessing."""
        return not self._differences(other)

    def check_compatible(self, other: "FeatureStore") -> None:
        """Raises ValueError, which names the differences, unless the features of two stores can be compared."""
        lines = self._differences(other)
        if lines:
            raise ValueError(f"{self.path} and {other.path} cannot be mixed; they differ in " + "; ".join(lines))

    def _differences(self, other: "FeatureStore") -> list[str]:
        if not isinstance(other, FeatureStore):
            raise TypeError(f"other must be a FeatureStore, got {type(other).__name__}")
        return incompatibilities(self.manifest, other.manifest)

    def verify(self, source: "ImageSource | None" = None) -> list[str]:
        """Reads the whole store and looks at the files of its images, without opening them.

        Args:
            source: Source of the images. None looks at the files that the index names; images in archives and tables
                are then left out. Of a store with segments, it may have its images in any order, under the names that
                the index has.

        Returns:
            One line for each shard that is missing, is not what was written, has damaged rows in the index, or whose
            images have another size or modification time than at the extraction.
        """
        lines = []
        numbers = range(self.num_shards)
        for number in track(numbers, "reading the store", unit="shard", enabled=len(self) >= MANY_ROWS):
            try:
                self._check_shard(number)
            except ValueError as error:
                lines.append(str(error))
        return lines + stale_rows(self, source)

    def to_faiss(self, output: str = "pooled", factory: str = "Flat") -> Any:
        """Raises AttributeError: this is now `stellar_hub.retrieval.build_index(store, output, factory)`."""
        raise AttributeError(
            f"to_faiss is now a function: stellar_hub.retrieval.build_index(store, {output!r}, {factory!r})"
        )
